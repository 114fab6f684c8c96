"""Reasons of a choice, with the numbers written out."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from influence.selection.budget import Budget
from influence.selection.choose import choose
from influence.selection.random_scores import random_scores
from influence.selection.reasons import BINS, explain
from influence.selection.score_matrix import by_subtask, score_matrix

VALUES = [[9, 8, 1], [6, 1, 2], [4, 2, 7], [3, 7, 5], [2, 5, 8]]


@pytest.fixture
def explained(make_pool):
    pool = make_pool({"a": ["x1", "xx2", "xxx3"], "b": ["xxxx4", "xxxxx5"]})
    targets = make_pool({"t": ["one", "two"], "u": ["three"]})
    scores = score_matrix("by hand", VALUES, pool, targets.names)
    # By turns: row 0 for "one" (9), row 3 for "two" (7), row 4 for "three" (8), row 1 for "one" (6).
    choice = choose(pool, scores, Budget(4), seed=None)
    return pool, targets, scores, choice, explain(pool, targets, scores, choice, most=2)


def test_why_each_example_was_chosen(explained):
    *_, reasons = explained
    assert [(why.source, why.number, why.score, why.query, why.text) for why in reasons.chosen] == [
        ("a", 0, 9.0, "t, line 1", "?x1"),
        ("b", 0, 7.0, "t, line 2", "?xxxx4"),
        ("b", 1, 8.0, "u, line 1", "?xxxxx5"),
        ("a", 1, 6.0, "t, line 1", "?xx2"),
    ]
    nearest = [[(near.query, near.score) for near in why.nearest] for why in reasons.chosen]
    assert nearest == [
        [(0, 9.0), (1, 8.0)],
        [(1, 7.0), (2, 5.0)],
        [(2, 8.0), (1, 5.0)],
        [(0, 6.0), (2, 2.0)],
    ]


def test_which_examples_help_each_validation_example(explained):
    *_, reasons = explained
    assert [(each.name, each.chosen, each.text) for each in reasons.queries] == [
        ("t, line 1", 2, "?one"),
        ("t, line 2", 1, "?two"),
        ("u, line 1", 1, "?three"),
    ]
    helpers = [
        [(each.source, each.number, each.score, each.rank, each.text) for each in query.helpers]
        for query in reasons.queries
    ]
    assert helpers == [
        [("a", 0, 9.0, 1, "?x1"), ("a", 1, 6.0, 4, "?xx2")],
        [("a", 0, 8.0, 1, "?x1"), ("b", 0, 7.0, 2, "?xxxx4")],
        [("b", 1, 8.0, 3, "?xxxxx5"), ("a", 2, 7.0, None, "?xxx3")],
    ]


def test_coverage_by_source(explained):
    a, b = explained[-1].sources
    assert (a.source, a.pool, a.chosen, a.pool_share, a.chosen_share) == ("a", 3, 2, 0.6, 0.5)
    assert (b.source, b.pool, b.chosen, b.pool_share, b.chosen_share) == ("b", 2, 2, 0.4, 0.5)
    assert (a.supervised, b.supervised) == (3 + 4, 6 + 7)


def test_the_histogram_is_of_the_maximum(explained):
    *_, choice, reasons = explained
    histogram = reasons.histogram
    assert len(histogram.edges) == BINS + 1 and (histogram.edges[0], histogram.edges[-1]) == (6, 9)
    # The maxima are 9, 6, 7, 7, 8, and the 7 of row 2 was not chosen.
    at = [int(np.searchsorted(histogram.edges, value, "right")) - 1 for value in (6, 7, 8)]
    assert [histogram.pool[bin] for bin in [*at, -1]] == [1, 2, 1, 1]
    assert [histogram.chosen[bin] for bin in [*at, -1]] == [1, 1, 1, 1]
    assert (sum(histogram.pool), sum(histogram.chosen)) == (5, len(choice.rows))


def test_spearmans_correlation_with_the_length(explained, make_pool, scored):
    # Ranks of the maxima 9, 6, 7, 7, 8 are 5, 1, 2.5, 2.5, 4, those of the lengths 1 to 5.
    ranks, lengths = np.array([5, 1, 2.5, 2.5, 4]), np.arange(1, 6)
    assert explained[-1].length_correlation == pytest.approx(np.corrcoef(ranks, lengths)[0, 1])
    equal = make_pool({"a": ["1", "2"]})
    scores = scored(equal, [1, 2])
    assert (
        explain(equal, equal, scores, choose(equal, scores, Budget(1))).length_correlation is None
    )
    pool = explained[0]
    scores = scored(pool, [3] * 5)
    assert explain(pool, pool, scores, choose(pool, scores, Budget(1))).length_correlation is None


def test_subtasks_are_queries_without_a_text(explained):
    pool, targets, scores, *_ = explained
    means = by_subtask(scores, targets)
    choice = choose(pool, means, Budget(2), policy="mean")
    reasons = explain(pool, targets, means, choice)
    assert [(query.name, query.text, query.chosen) for query in reasons.queries] == [
        ("t", "", 0),
        ("u", "", 0),
    ]
    # The mean over both subtasks: ((9 + 8)/2 + 1)/2 = 4.75, …, (3.5 + 8)/2 = 5.75.
    assert (reasons.histogram.edges[0], reasons.histogram.edges[-1]) == (2.75, 5.75)


def test_a_draw_by_chance_is_explained_by_other_scores(explained):
    pool, targets, scores, *_ = explained
    choice = choose(pool, random_scores(pool, 0), Budget(2))
    reasons = explain(pool, targets, scores, choice)
    assert reasons.in_words.startswith("random, ") and reasons.method == "by hand"
    assert [why.query for why in reasons.chosen] == ["every query"] * 2
    assert [query.chosen for query in reasons.queries] == [0, 0, 0]


def test_reasons_are_plain_data(explained):
    *_, reasons = explained
    document = json.loads(json.dumps(asdict(reasons)))
    assert document["chosen"][0]["nearest"][0] == {"query": 0, "score": 9.0}
    assert document["queries"][2]["helpers"][1]["rank"] is None
