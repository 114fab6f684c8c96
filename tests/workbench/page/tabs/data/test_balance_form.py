"""The form of balancing: its values become settings, options and come back."""

import pytest

from workbench.errors import SessionError
from workbench.influence_runs.data_settings import BalanceSettings
from workbench.page.tabs.data.balance_form import fill, options_of, read

OTHER = BalanceSettings(
    "base: x\n", rounds=1, m=0.05, keep_total=True, centre=True, estimator="kfac",
    layers="all", keep=3, sample=None, seed=4,
)  # fmt: skip


@pytest.mark.parametrize("settings", [BalanceSettings("base: x\n"), OTHER])
def test_settings_come_back_from_the_fields(settings):
    assert read(*fill(settings)) == settings


def test_options_are_those_of_the_command():
    options = options_of(OTHER)
    assert (options.rounds, options.m, options.keep, options.sample) == (1, 0.05, 3, None)
    assert (options.curvature.estimator, options.curvature.seed) == ("kfac", 4)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [(1, "0", "Rounds of resizing: '0'"), (2, "2", "Largest change, share: '2'"),
     (3, "1", "Examples per set: '1' was given. Give a whole number of 2"), (7, "x", "Steadiest")],
)  # fmt: skip
def test_a_wrong_field_is_told_by_its_label(field, value, said):
    values = fill(OTHER)
    values[field] = value
    with pytest.raises(SessionError, match=said):
        read(*values)
