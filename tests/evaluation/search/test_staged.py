"""Stages: coarse coordinates first, everything measured is passed on, the finest optimum is found."""

import numpy as np
import pytest

from evaluation.search.contract import Measured, Space, Trial
from evaluation.search.gradient import GradientSearch
from evaluation.search.greedy import GreedySearch
from evaluation.search.limits import NormLimit, SumLimit
from evaluation.search.objective import mean_loss
from evaluation.search.staged import StagedSearch, TiedLimit, openings
from evaluation.search.surrogate import SurrogateSearch

COORDINATES = {
    "a": {"early": "a early", "middle": "a middle", "late": "a late"},
    "b": {"early": "b early", "late": "b late"},
    "density": {"": "density"},
}
NAMES = [name for by_group in COORDINATES.values() for name in by_group.values()]
STAGES = openings(COORDINATES, ["late", "early", "middle"])
START = dict.fromkeys(NAMES, 0.5)
TARGET = dict(zip(NAMES, (0.1, 0.2, 0.9, 0.3, 0.8, 0.4), strict=True))


def measured(point):
    away = {name: value - TARGET[name] for name, value in point.items()}
    loss = 1 + sum(value**2 for value in away.values()) + 0.2 * away["a late"] * away["b late"]
    slopes = {name: 2 * value for name, value in away.items()}
    slopes["a late"] += 0.2 * away["b late"]
    slopes["b late"] += 0.2 * away["a late"]
    return Measured({"x": loss}, {"x": slopes})


def run(search, budget):
    while len(search.trials) < budget and (point := search.ask()) is not None:
        got = measured(point)
        search.tell(Trial(point, got.losses["x"], got))
    return search


def staged(make, counts=(4, 4), space=None):
    return StagedSearch(
        space or Space(dict.fromkeys(NAMES, (0.0, 1.0))), STAGES, counts, START, make
    )


MAKERS = {
    "surrogate": lambda box, start, known: SurrogateSearch(
        box, mean_loss(["x"]), start, known=known
    ),
    "gradient": lambda box, start, known: GradientSearch(box, mean_loss(["x"]), start),
    "greedy": lambda box, start, known: GreedySearch(box, 3),
}


def test_the_stages_open_one_group_after_another():
    assert STAGES == [
        {
            "a": ("a early", "a middle", "a late"),
            "b": ("b early", "b late"),
            "density": ("density",),
        },
        {
            "a late": ("a late",),
            "a": ("a early", "a middle"),
            "b late": ("b late",),
            "b early": ("b early",),
            "density": ("density",),
        },
        {
            "a early": ("a early",),
            "a late": ("a late",),
            "a middle": ("a middle",),
            "b early": ("b early",),
            "b late": ("b late",),
            "density": ("density",),
        },
    ]


@pytest.mark.parametrize("kind", MAKERS)
def test_no_point_is_asked_twice_and_the_first_stage_ties_its_coordinates(kind):
    points = [trial.point for trial in run(staged(MAKERS[kind]), 24).trials]
    assert len({tuple(point.values()) for point in points}) == len(points) > 8
    for number, point in enumerate(points):
        assert list(point) == NAMES
        if number < 4:
            assert point["a early"] == point["a middle"] == point["a late"]
            assert point["b early"] == point["b late"]
        elif number < 8:
            assert point["a early"] == point["a middle"]
    assert any(point["a early"] != point["a middle"] for point in points)


@pytest.mark.parametrize("kind", ["surrogate", "gradient"])
def test_the_optimum_of_all_coordinates_is_found(kind):
    best = run(staged(MAKERS[kind]), 25).best
    assert best.point == pytest.approx(TARGET, abs=0.01)


def test_a_stage_knows_what_the_stages_before_it_measured():
    seen = []

    def make(box, start, known):
        seen.append((start, list(known)))
        return MAKERS["surrogate"](box, start, known)

    search = run(staged(make), 9)
    _, first, second, third = seen  # the first one only says whether it needs derivatives
    assert [len(known) for _, known in (first, second, third)] == [0, 4, 8]
    coarse, trial = second[1][0], search.trials[0]
    assert coarse.point["a"] == trial.point["a early"]
    slopes, fine = coarse.measured.gradients["x"], trial.measured.gradients["x"]
    assert slopes["a"] == pytest.approx(fine["a early"] + fine["a middle"])
    best = min(search.trials[:8], key=lambda each: each.score)
    assert third[0] == best.point


def test_the_same_answers_give_the_same_points():
    first, again = (run(staged(MAKERS["surrogate"]), 15) for _ in range(2))
    assert first.trials == again.trials


@pytest.mark.parametrize("kind", MAKERS)
def test_limits_hold_in_every_stage(kind):
    gram = np.diag([1.0, 2.0, 1.0, 1.0, 3.0])
    limits = (SumLimit(("a late", "b late"), 0.9), NormLimit(tuple(NAMES[:5]), 0.8, gram))
    space = Space(dict.fromkeys(NAMES, (0.0, 1.0)), limits)
    points = [trial.point for trial in run(staged(MAKERS[kind], space=space), 20).trials]
    assert len(points) > 8 and all(space.allows(point) for point in points)


def test_a_tied_limit_by_hand():
    """G = diag(1, 2, 3) over a early, a late, b: tied to (a, b) = (2, 1) it is √(4 + 8 + 3) = √15."""
    inner = NormLimit(("a1", "a2", "b"), 5.0, np.diag([1.0, 2.0, 3.0]))
    tied = TiedLimit.of(inner, {"a": ("a1", "a2"), "b": ("b",), "c": ("c",)})
    values = np.array([2.0, 1.0])
    assert tied.names == ("a", "b") and tied.value(values) == pytest.approx(15**0.5)
    assert tied.slope(values) == pytest.approx(np.array([6.0, 3.0]) / 15**0.5)
