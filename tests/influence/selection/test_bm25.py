"""BM25 against a plain loop in float64 and a number worked out by hand; planted copies come first."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from influence.errors import InfluenceError
from influence.selection.bm25 import bm25_scores
from influence.selection.budget import Budget
from influence.selection.choose import choose


def plain(documents, queries):
    """Okapi BM25, k1 = 1.5, b = 0.75, term by term."""
    bags = [Counter(re.findall(r"\w+", text.lower())) for text in documents]
    mean = sum(bag.total() for bag in bags) / len(bags)
    scores = np.zeros((len(bags), len(queries)))
    for row, bag in enumerate(bags):
        for column, query in enumerate(queries):
            for word in re.findall(r"\w+", query.lower()):
                holding = sum(word in other for other in bags)
                idf = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
                norm = 1.5 * (1 - 0.75 + 0.75 * bag.total() / mean)
                scores[row, column] += idf * bag[word] * 2.5 / (bag[word] + norm)
    return scores


def test_equals_a_plain_loop_in_float64(planted, monkeypatch):
    pool, targets, _ = planted
    expected = plain(pool.texts, targets.texts)
    assert bm25_scores(pool, targets).values == pytest.approx(expected, rel=1e-6)
    # Blocks of rows, which bound the memory, change nothing.
    monkeypatch.setattr("influence.selection.bm25.ROWS", 37)
    assert bm25_scores(pool, targets).values == pytest.approx(expected, rel=1e-6)


def test_a_number_by_hand(make_pool):
    """Three documents of 1, 2 and 3 words; "sea" is in two of them, "ship" in one.

    idf(sea) = ln(1 + 1.5/2.5) = 0.47000, idf(ship) = ln(1 + 2.5/1.5) = 0.98083; the mean length is
    2, so norm = 1.5 · (0.25 + 0.75 · |d| / 2) = 0.9375, 1.5, 2.0625.
    """
    pool = make_pool({"a": ["sea", "Sea ship", "one two three"]}, prompt="")
    targets = make_pool({"t": ["sea", "ship sea", "sea sea", "unknown three"]}, prompt="")
    sea, longer = 0.470004 * 2.5 / 1.9375, 0.470004 * 2.5 / 2.5
    ship, three = 0.980829 * 2.5 / 2.5, 0.980829 * 2.5 / 3.0625
    expected = [[sea, sea, 2 * sea, 0], [longer, ship + longer, 2 * longer, 0], [0, 0, 0, three]]
    assert bm25_scores(pool, targets).values == pytest.approx(np.array(expected), abs=1e-5)


@pytest.mark.parametrize("policy", ["max", "round_robin"])
def test_planted_copies_come_first(planted, policy):
    pool, targets, rows = planted
    choice = choose(pool, bm25_scores(pool, targets), Budget(55), policy=policy)
    if policy == "round_robin":
        assert sorted(choice.rows[:10]) == rows
        copy_of = dict(zip(targets.names, rows, strict=True))
        assert choice.rows[:10] == tuple(copy_of[query] for query in choice.queries[:10])
    else:
        # A longer text shares more words, so the copy of a short one may come later.
        assert set(choice.rows[:5]) <= set(rows)


def test_queries_and_pools_without_words_are_refused(make_pool):
    pool, targets = make_pool({"a": ["sea", "ship"]}), make_pool({"t": ["sea", "tea"]})
    with pytest.raises(InfluenceError, match="every example scores 0 for the query t, line 2"):
        bm25_scores(pool, targets)
    with pytest.raises(InfluenceError, match="none of 1 texts of the pool holds a word"):
        bm25_scores(make_pool({"a": ["…"]}), targets)
