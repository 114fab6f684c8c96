"""The form of a selection: its values become settings and come back; wrong ones are told."""

from dataclasses import replace

import pytest

from workbench.errors import SessionError
from workbench.influence_runs.data_settings import SelectSettings
from workbench.page.tabs.data.select_form import fill, read

HERE = "/somewhere"
OTHER = SelectSettings(
    f"{HERE}/base", f"{HERE}/pool", f"{HERE}/wanted", split="more", target_split="test", limit=None,
    method="rds", policy="max", share=0.25, unit="tokens", cap=0.5, copies="none", kind="adam",
    centre=True, size=64, warm_share=0.1, epochs=2, rate=2e-5, rank=4, batch=8, seed=3,
)  # fmt: skip


@pytest.mark.parametrize("settings", [SelectSettings("/b", "/p", "/t"), OTHER])
def test_settings_come_back_from_the_fields(settings):
    assert read(*fill(settings)) == settings


def test_a_count_takes_the_place_of_a_share():
    values = fill(replace(OTHER, count=7))
    values[5] = "not a number"
    assert read(*values).count == 7


def test_bm25_takes_turns_only():
    with pytest.raises(SessionError, match="Policy: max was chosen with BM25.*Choose turns"):
        read(*fill(replace(OTHER, method="bm25")))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [(0, "", "Base model: no folder"), (7, "-1", "Targets per subtask: '-1'"),
     (12, "2", "Most from a source, share: '2'"), (16, "fast", "Learning rate: 'fast'")],
)  # fmt: skip
def test_a_wrong_field_is_told_by_its_label(field, value, said):
    values = fill(OTHER)
    values[field] = value
    with pytest.raises(SessionError, match=said):
        read(*values)
