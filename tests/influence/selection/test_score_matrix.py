"""Scores in one form: what is refused by name, and means over subtasks by hand."""

import numpy as np
import pytest

from influence.errors import InfluenceError
from influence.selection.score_matrix import by_subtask, score_matrix

NAN, INF = float("nan"), float("inf")


def test_one_score_for_each_example_is_one_query(sized_pool):
    scores = score_matrix("x", [1, 2, 3], sized_pool(a=3), ["all"])
    assert scores.values.shape == (3, 1) and scores.values.dtype == np.float32
    assert scores.examples == ("a, line 1", "a, line 2", "a, line 3")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1, 2], [3, 4]], r"the shape \(2, 2\); expected a row for each of 3 examples"),
        ([[1, 2], [3, NAN], [5, 6]], r"not every score is finite of the example a, line 2 \(1 of 3\)"),
        ([[1, 2], [3, 4], [INF, 6]], "finite of the example b, line 1"),
        ([[1, NAN], [3, NAN], [5, NAN]], r"no score is finite for the query t, line 2 \(1 of 2\)"),
        ([[1, 2], [0, 0], [5, 6]], r"every query scores 0 for the example a, line 2 \(1 of 3\)"),
        ([[1, 0], [3, 0], [5, 0]], "every example scores 0 for the query t, line 2"),
    ],
)  # fmt: skip
def test_scores_are_refused_by_the_name_of_example_or_query(sized_pool, values, words):
    pool, targets = sized_pool(a=2, b=1), sized_pool(t=2)
    with pytest.raises(InfluenceError, match=words):
        score_matrix("x", values, pool, targets.names)


def test_a_row_of_zeros_may_be_allowed_and_a_column_may_not(sized_pool):
    pool, targets = sized_pool(a=2), sized_pool(t=2)
    scores = score_matrix("x", [[0, 0], [1, 2]], pool, targets.names, zero_rows=True)
    assert scores.values[0].tolist() == [0, 0]
    with pytest.raises(InfluenceError, match="every example scores 0 for the query t, line 1"):
        score_matrix("x", [[0, 1], [0, 2]], pool, targets.names, zero_rows=True)


def test_subtasks_of_unequal_size_by_hand(sized_pool):
    targets = sized_pool(u=3, v=1)
    scores = score_matrix("x", [[1, 2, 6, 5], [-1, 0, 1, 2]], sized_pool(a=2), targets.names)
    means = by_subtask(scores, targets)
    assert means.queries == ("u", "v")
    assert means.values.tolist() == [[3, 5], [0, 2]]
    with pytest.raises(InfluenceError, match="the 2 queries are not the 4 validation examples"):
        by_subtask(means, targets)
