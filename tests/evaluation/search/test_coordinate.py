"""Coordinate search: it finds minima, never asks twice, stays in its box."""

import pytest

from evaluation.search import CoordinateSearch, Space, Trial


def run(search, score):
    while (point := search.ask()) is not None:
        search.tell(Trial(point, score(point)))
    return search


def box(start, low=0.0, high=1.5):
    return Space(dict.fromkeys(start, (low, high))), start


def test_it_finds_the_minimum_of_a_bowl():
    search = run(
        CoordinateSearch(*box({"cot": 0.5, "p3": 0.5}), step=0.2),
        lambda at: (at["cot"] - 0.7) ** 2 + (at["p3"] - 0.3) ** 2,
    )
    assert search.best.point == {"cot": 0.7, "p3": 0.3}
    assert search.best.score == pytest.approx(0.0)


def test_by_hand_in_one_dimension():
    # from 0 by 0.4: 0.4 is better, 0.8 is worse; then by 0.2: 0.6 is better, 0.8 and 0.4 are known; the end
    search = run(
        CoordinateSearch(*box({"x": 0.0}, low=-1), step=0.4, smallest=0.2),
        lambda at: abs(at["x"] - 0.6),
    )
    assert [trial.point["x"] for trial in search.trials] == [0.0, 0.4, 0.8, 0.6]


def test_no_point_is_asked_twice_and_all_lie_in_the_box():
    asked = []

    def score(at):
        asked.append(tuple(at.values()))
        return -sum(at.values()) + at["a"] * at["b"]

    search = run(CoordinateSearch(*box({"a": 0.9, "b": 2.0, "c": -3.0}, high=1.0), step=0.3), score)
    assert len(set(asked)) == len(asked) == len(search.trials)
    assert all(0 <= value <= 1 for point in asked for value in point)
    assert search.best.point["c"] == 1.0


@pytest.mark.parametrize("options", [{"step": 0.01}, {"smallest": 0.0}, {"smallest": -1.0}])
def test_settings_that_make_no_search_are_refused(options):
    with pytest.raises(ValueError, match="expected 0 < smallest <= step"):
        CoordinateSearch(*box({"a": 0.0}), **options)
