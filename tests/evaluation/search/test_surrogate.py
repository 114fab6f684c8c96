"""The surrogate search: how far it steps while its surrogates are weak, and several points a step."""

import numpy as np
import pytest

from evaluation.search.contract import Measured, Space, Trial
from evaluation.search.objective import Weighted, Worst
from evaluation.search.surrogate import RADIUS, SHORT, SurrogateSearch

NAMES = ("a", "b")
SPACE = Space(dict.fromkeys(NAMES, (0.0, 1.0)))
START = {"a": 0.1, "b": 0.2}


def measured(point):
    """ "smooth" is a quadratic. "rugged" has ridges besides, a tenth of the range apart."""
    x = np.array([point[name] for name in NAMES])
    away, across = x - (0.7, 0.6), np.array([0.6, 0.8])
    phase = 2 * np.pi * 10 * across @ x
    rugged = 1 + away @ away + 0.2 * np.cos(phase)
    slope = 2 * away - 0.2 * 2 * np.pi * 10 * np.sin(phase) * across
    return Measured(
        {"smooth": 1 + float(away @ away), "rugged": float(rugged)},
        {
            "smooth": dict(zip(NAMES, (2 * away).tolist(), strict=True)),
            "rugged": dict(zip(NAMES, slope.tolist(), strict=True)),
        },
    )


def run(objective, budget=14, **options):
    search = SurrogateSearch(SPACE, objective, START, **options)
    while len(search.trials) < budget and (point := search.ask()) is not None:
        got = measured(point)
        search.tell(Trial(point, objective.score(got.losses), got))
    return search


def lengths(search):
    """How far each step went from the best point before it, by its number."""
    trials = search.trials
    found = []
    for number in range(1, len(trials)):
        best = min(trials[:number], key=lambda trial: trial.score).point
        found.append(max(abs(trials[number].point[name] - best[name]) for name in NAMES))
    return found


def test_steps_are_half_as_long_while_a_surrogate_is_weak():
    search = run(Weighted({"smooth": 0.5, "rugged": 0.5}))
    went = dict(zip(range(len(search.weak)), lengths(search), strict=False))
    weak = [number for number, datasets in enumerate(search.weak) if datasets]
    assert {search.weak[number] for number in weak} == {("rugged",)}
    assert len(weak) >= 4 and all(went[number] <= 0.15 + 1e-9 for number in weak if number in went)
    # With few points nothing is known of the surrogates, so that the first steps are long.
    assert 0 not in weak and went[0] == pytest.approx(0.3)


def test_a_quadratic_is_leant_on_to_the_end():
    search = run(Weighted({"smooth": 1.0}))
    assert set(search.weak) == {()}
    assert search.best.point == pytest.approx({"a": 0.7, "b": 0.6}, abs=1e-3)


def test_a_dataset_on_which_the_score_does_not_depend_does_not_count():
    assert set(run(Weighted({"smooth": 1.0, "rugged": 0.0})).weak) == {()}
    # The worst dataset decides alone: "smooth" is always better than its expert by far more.
    search = run(Worst({"smooth": 9.0, "rugged": 0.0}, {"smooth": 1.0, "rugged": 1.0}))
    assert {*search.weak} == {(), ("rugged",)}


def test_a_step_of_several_points_has_the_minima_of_several_regions():
    objective = Weighted({"smooth": 0.5, "rugged": 0.5})
    search = SurrogateSearch(SPACE, objective, START, at_once=4)
    sizes = []
    for _ in range(6):
        best = search.best
        points = search.free(4)
        assert len({tuple(point.values()) for point in points}) == len(points)
        if best is not None:
            sizes.append(
                [max(abs(point[name] - best.point[name]) for name in NAMES) for point in points]
            )
        for point in points:
            got = measured(point)
            search.tell(Trial(point, objective.score(got.losses), got))
    # The first round is the start and a step along each of the two ω.
    assert all(len(each) == 4 for each in sizes)
    for weak, each in zip(search.weak, sizes, strict=False):
        reach = SHORT if weak else RADIUS
        assert each[0] <= reach + 1e-9
        assert max(each) <= max(4 * reach, reach + 0.1)
    assert len({round(length, 3) for length in sizes[0]}) > 1


def test_a_space_with_no_room_for_several_points_ends():
    tiny = Space({"a": (0.5, 0.505), "b": (0.2, 0.2)})
    search = SurrogateSearch(tiny, Weighted({"smooth": 1.0}), {"a": 0.5, "b": 0.2}, at_once=6)
    count = 0
    while points := search.free(6):
        count += len(points)
        for point in points:
            got = measured(point)
            search.tell(Trial(point, got.losses["smooth"], got))
        assert count < 10
