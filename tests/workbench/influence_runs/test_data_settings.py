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
        MisfiledSettings("recipe", "/d", limit=3),
    ],
)
def test_settings_come_back(settings, tmp_path):
    write_settings(tmp_path / "run", settings)
    assert read_settings(tmp_path / "run", settings.QUESTION) == settings


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
