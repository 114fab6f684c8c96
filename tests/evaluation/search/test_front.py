"""The front of a search, worked by hand."""

from evaluation.search.contract import Measured, Trial
from evaluation.search.front import front


def trial(*losses):
    return Trial({"a": losses[0]}, 0.0, Measured(dict(zip(("x", "y"), losses, strict=True))))


def test_the_front_worked_by_hand():
    best_x, best_y, between = trial(1.0, 4.0), trial(3.0, 1.0), trial(2.0, 2.0)
    beaten, equal_on_one = trial(2.5, 2.5), trial(1.0, 5.0)
    trials = [beaten, best_y, best_x, equal_on_one, between, Trial({"a": 0.0}, float("inf"))]
    assert front(trials, ["x", "y"]) == [best_y, best_x, between]
    # On one dataset alone, all with the lowest loss are left.
    assert front(trials, ["x"]) == [best_x, equal_on_one]
    twice = [between, trial(2.0, 2.0)]
    assert front(twice, ["x", "y"]) == twice
