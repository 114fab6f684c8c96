"""Limits on Σω and ‖ΔΘ‖: kept by every searcher, and the best within them is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.search.cma import CmaSearch
from evaluation.search.contract import Measured, Space, Trial
from evaluation.search.coordinate import CoordinateSearch
from evaluation.search.gp import GpSearch
from evaluation.search.gradient import GradientSearch
from evaluation.search.greedy import GreedySearch
from evaluation.search.grid import GridSearch
from evaluation.search.limits import NormLimit, SumLimit
from evaluation.search.nsga import NsgaSearch
from evaluation.search.objective import mean_loss
from evaluation.search.surrogate import SurrogateSearch
from evaluation.search.tpe import TpeSearch

NAMES = ("a", "b", "c")
GRAM = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]])
LIMITS = {
    "sum": (SumLimit(NAMES, 0.8),),
    "norm": (NormLimit(NAMES, 0.7, GRAM),),
    "both, on some": (SumLimit(("a", "b"), 0.5), NormLimit(("b", "c"), 0.6, GRAM[1:, 1:])),
}
TARGET = np.array([0.9, 0.7, 0.6])
START = dict.fromkeys(NAMES, 0.5)


def space(kind):
    return Space(dict.fromkeys(NAMES, (0.0, 1.0)), LIMITS[kind])


def measured(point):
    """A bowl around a target that no limit allows."""
    away = np.array([point[name] for name in NAMES]) - TARGET
    slopes = dict(zip(NAMES, (2 * away).tolist(), strict=True))
    return Measured({"x": float(away @ away)}, {"x": slopes})


def searchers(box):
    goal = mean_loss(["x"])
    return {
        "coordinate": CoordinateSearch(box, START),
        "grid": GridSearch(box, 4),
        "greedy": GreedySearch(box, 4),
        "gradient": GradientSearch(box, goal, START),
        "surrogate": SurrogateSearch(box, goal, START),
        "tpe": TpeSearch(box, START),
        "gp": GpSearch(box, START),
        "nsga": NsgaSearch(box, START, ["x"], population=6),
        "cma": CmaSearch(box, START),
    }


def run(search, budget):
    while len(search.trials) < budget and (point := search.ask()) is not None:
        got = measured(point)
        search.tell(Trial(point, got.losses["x"], got))
    return search


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("kind", list(searchers(space("sum"))))
def test_every_searcher_keeps_the_limits_and_asks_no_point_twice(kind, limits):
    box = space(limits)
    points = [trial.point for trial in run(searchers(box)[kind], 25).trials]
    assert len({tuple(point.values()) for point in points}) == len(points) >= 3
    for point in points:
        x = np.array([point[name] for name in NAMES])
        assert (x >= 0).all() and (x <= 1).all()
        for limit in LIMITS[limits]:
            part = np.array([point[name] for name in limit.names])
            if isinstance(limit, SumLimit):
                assert part.sum() <= limit.highest + 1e-9
            else:
                assert part @ limit.gram @ part <= limit.highest**2 + 1e-9


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("kind", ["gradient", "surrogate"])
def test_the_best_within_the_limits_is_found(kind, limits):
    best = run(searchers(space(limits))[kind], 20).best
    x = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 3), -1).reshape(-1, 3)
    for limit in LIMITS[limits]:
        part = x[:, [NAMES.index(name) for name in limit.names]]
        norm = isinstance(limit, NormLimit)
        value = (part @ limit.gram * part).sum(1) if norm else part.sum(1)
        x = x[value <= (limit.highest**2 if norm else limit.highest) + 1e-9]
    of_grid = ((x - TARGET) ** 2).sum(1).min()
    assert best.score <= of_grid + 1e-3


def test_a_point_beyond_a_limit_is_moved_straight_towards_zero():
    """Σω ≤ 1: (0.8, 0.8, 0.4) sums to 2, so its half keeps the limit; b alone is not limited."""
    box = Space(dict.fromkeys(NAMES, (0.0, 1.0)), (SumLimit(NAMES, 1.0),))
    assert box.inside({"a": 0.8, "b": 0.8, "c": 0.4}) == pytest.approx(
        {"a": 0.4, "b": 0.4, "c": 0.2}, abs=2e-4
    )
    partly = Space(dict.fromkeys(NAMES, (0.0, 1.0)), (SumLimit(("a", "c"), 0.6),))
    assert partly.inside({"a": 0.8, "b": 0.8, "c": 0.4}) == pytest.approx(
        {"a": 0.4, "b": 0.8, "c": 0.2}, abs=2e-4
    )
    inside = {"a": 0.1, "b": 0.9, "c": 0.2}
    assert partly.inside(inside) == inside


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_moving_a_point_twice_is_moving_it_once(values):
    for limits in LIMITS.values():
        box = Space(dict.fromkeys(NAMES, (-1.0, 1.0)), limits)
        once = box.named(values)
        assert box.inside(once) == once and box.allows(once)


def test_a_grid_leaves_out_what_is_forbidden():
    """Of 27 points with ω in {0, ½, 1}, 10 have Σω ≤ 1: one of 0, three of ½, six of 1."""
    search = GridSearch(Space(dict.fromkeys(NAMES, (0.0, 1.0)), (SumLimit(NAMES, 1.0),)), 3)
    assert len(run(search, 99).trials) == 10


def test_a_limit_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="Σω at most 1. Give a higher limit or lower bounds"):
        Space(dict.fromkeys(NAMES, (0.5, 1.0)), (SumLimit(NAMES, 1.0),))
