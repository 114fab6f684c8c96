"""Draws by chance: seeds, equal shares, and no dependence on the order of the pool."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from influence.selection.random_scores import random_scores, stratified_scores

DRAWS = [random_scores, stratified_scores]


def first(pool, scores, count):
    return [pool.examples[row] for row in np.argsort(-scores.values[:, 0])[:count]]


@pytest.mark.parametrize("draw", DRAWS)
def test_scores_are_the_ranks_and_depend_on_the_seed_only(sized_pool, draw):
    pool = sized_pool(a=7, b=5)
    values = draw(pool, 0).values[:, 0]
    assert sorted(values) == pytest.approx(np.arange(1, 13) / 12)
    assert (draw(pool, 0).values == draw(pool, 0).values).all()
    assert (draw(pool, 0).values != draw(pool, 1).values).any()


@pytest.mark.parametrize("draw", DRAWS)
def test_the_order_of_the_pool_does_not_count(sized_pool, draw):
    pool = sized_pool(a=7, b=5, c=11)
    mixed = replace(pool, examples=pool.examples[::-1])
    assert first(mixed, draw(mixed, 3), 23) == first(pool, draw(pool, 3), 23)


def test_the_random_draw_keeps_its_order_when_a_source_is_added(sized_pool):
    small, large = sized_pool(a=29), sized_pool(a=29, b=31)
    kept = [each for each in first(large, random_scores(large, 0), 60) if each.source == "a"]
    assert kept == first(small, random_scores(small, 0), 29)


def test_every_source_gives_the_same_until_it_has_none_left(sized_pool):
    pool = sized_pool(a=3, b=50, c=50)
    scores = stratified_scores(pool, 0)
    assert Counter(each.source for each in first(pool, scores, 9)) == {"a": 3, "b": 3, "c": 3}
    assert Counter(each.source for each in first(pool, scores, 43)) == {"a": 3, "b": 20, "c": 20}
    # Within one turn the order is by chance: no source is always first.
    leaders = {first(pool, stratified_scores(pool, seed), 1)[0].source for seed in range(20)}
    assert leaders == {"a", "b", "c"}


def test_the_random_draw_is_uniform(sized_pool):
    """Every example is drawn equally often: χ² of 200 draws of 10 from 40, 39 degrees of freedom."""
    pool = sized_pool(a=13, b=27)
    counts = np.zeros(40)
    for seed in range(200):
        counts[np.argsort(-random_scores(pool, seed).values[:, 0])[:10]] += 1
    chi = ((counts - 50) ** 2 / 50 / (1 - 0.25)).sum() * 39 / 40
    assert chi < 72.1  # the 99.9th percentile
