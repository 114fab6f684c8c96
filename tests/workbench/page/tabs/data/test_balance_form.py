"""The form of balancing: its values become settings, options and come back."""

from typing import get_args

import pytest

from workbench.errors import SessionError
from workbench.influence_runs.balance_rounds import Rule
from workbench.influence_runs.data_settings import BalanceSettings
from workbench.page.tabs.data.balance_form import DEFAULTS, METHODS, fill, options_of, read

OTHER = BalanceSettings(
    "base: x\n", rounds=1, m=0.05, keep_total=True, centre=True, estimator="kfac",
    layers="all", keep=3, sample=None, seed=4,
)  # fmt: skip


PROXY = BalanceSettings("base: x\n", method="doremi")


@pytest.mark.parametrize("settings", [BalanceSettings("base: x\n"), OTHER, PROXY])
def test_settings_come_back_from_the_fields(settings):
    assert read(*fill(settings)) == settings


def test_the_methods_are_those_of_the_command_and_ideal_comes_first():
    assert [method for _, method in METHODS] == list(get_args(Rule))
    assert DEFAULTS.method == "ideal"


def test_fields_that_a_method_does_not_have_count_for_nothing():
    """They are hidden, so a wrong value in them could not be found."""
    values = fill(OTHER)
    values[0], values[2], values[3] = "stratified", "0", "much"
    assert read(*values) == BalanceSettings("base: x\n", method="stratified")


def test_options_are_those_of_the_command():
    options = options_of(OTHER)
    assert (options.rounds, options.m, options.keep, options.sample) == (1, 0.05, 3, None)
    assert (options.curvature.estimator, options.curvature.seed) == ("kfac", 4)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [(2, "0", "Rounds of resizing: '0'"), (3, "2", "Largest change, share: '2'"),
     (4, "1", "Examples per set: '1' was given. Give a whole number of 2"), (8, "x", "Steadiest")],
)  # fmt: skip
def test_a_wrong_field_is_told_by_its_label(field, value, said):
    values = fill(OTHER)
    values[field] = value
    with pytest.raises(SessionError, match=said):
        read(*values)
