"""Settings of a run come back from its folder, and other files are refused."""

import pytest

from workbench.errors import SessionError
from workbench.influence_runs.data_settings import (
    FILE,
    BalanceSettings,
    MisfiledSettings,
    SelectSettings,
    read_settings,
    write_settings,
)


@pytest.mark.parametrize(
    "settings",
    [
        SelectSettings("/b", "/p", "/t", method="rds", cap=0.5),
        BalanceSettings("base: ü\n", keep=2, sample=None),
        BalanceSettings("base: ü\n", method="doge"),
        MisfiledSettings("recipe", "/d", limit=3),
    ],
)
def test_settings_come_back(settings, tmp_path):
    write_settings(tmp_path / "run", settings)
    assert read_settings(tmp_path / "run", settings.QUESTION) == settings


def test_a_run_from_before_there_were_methods_is_of_ideal(tmp_path):
    (tmp_path / FILE).write_text(
        '{"plan": "base: x", "rounds": 3, "m": 0.1, "keep_total": true, "centre": false,'
        ' "estimator": "kfac", "layers": "all", "keep": null, "sample": null, "seed": 2}'
    )
    assert read_settings(tmp_path, "balance") == BalanceSettings(
        "base: x", "ideal", 3, 0.1, True, estimator="kfac", layers="all", sample=None, seed=2
    )


@pytest.mark.parametrize("content", [None, "[1", '{"base": "/b"}', '{"tune": 1}'])
def test_a_folder_of_something_else_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(SessionError, match="holds no run of this question"):
        read_settings(tmp_path, "select")


def test_the_warm_up_has_the_settings_of_the_form():
    warm = SelectSettings("/b", "/p", "/t", warm_share=0.25, epochs=2, rank=3, seed=4).warm_up
    assert (warm.share, warm.epochs, warm.rate, warm.rank, warm.batch, warm.seed) == (
        0.25, 2, 1e-3, 3, 32, 4,
    )  # fmt: skip
