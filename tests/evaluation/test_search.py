"""Coordinate search: it finds minima, never asks twice, stays in its box."""

import pytest

from evaluation.search import CoordinateSearch


def run(search, score):
    while (point := search.ask()) is not None:
        search.tell(point, score(point))
    return search


def test_it_finds_the_minimum_of_a_bowl():
    search = run(
        CoordinateSearch({"cot": 0.5, "p3": 0.5}, step=0.2),
        lambda at: (at["cot"] - 0.7) ** 2 + (at["p3"] - 0.3) ** 2,
    )
    assert search.best.point == {"cot": 0.7, "p3": 0.3}
    assert search.best.score == pytest.approx(0.0)


def test_by_hand_in_one_dimension():
    # from 0 by 0.4: 0.4 is better, 0.8 is worse; then by 0.2: 0.6 is better, 0.8 and 0.4 are known; the end
    search = run(
        CoordinateSearch({"x": 0.0}, step=0.4, smallest=0.2, low=-1), lambda at: abs(at["x"] - 0.6)
    )
    assert [trial.point["x"] for trial in search.trials] == [0.0, 0.4, 0.8, 0.6]


def test_no_point_is_asked_twice_and_all_lie_in_the_box():
    asked = []

    def score(at):
        asked.append(tuple(at.values()))
        return -sum(at.values()) + at["a"] * at["b"]

    search = run(
        CoordinateSearch({"a": 0.9, "b": 2.0, "c": -3.0}, step=0.3, low=0.0, high=1.0), score
    )
    assert len(set(asked)) == len(asked) == len(search.trials)
    assert all(0 <= value <= 1 for point in asked for value in point)
    assert search.best.point["c"] == 1.0


def test_a_question_stands_until_it_is_answered():
    search = CoordinateSearch({"a": 0.5})
    assert search.ask() == search.ask() == {"a": 0.5}
    with pytest.raises(
        ValueError, match=r"tell\(\) takes the point that ask\(\) returned last, \{'a': 0.5\}"
    ):
        search.tell({"a": 0.6}, 1.0)
    assert search.best.score == float("inf")


@pytest.mark.parametrize(
    ("start", "options", "words"),
    [
        ({}, {}, "at least one coordinate"),
        ({"a": 0}, {"step": 0.01}, "smallest <= step"),
        ({"a": 0}, {"low": 2}, "low 2"),
    ],
)
def test_settings_that_make_no_search_are_refused(start, options, words):
    with pytest.raises(ValueError, match=words):
        CoordinateSearch(start, **options)
