"""Scores by chance: a random draw of the whole pool, and one with an equal share of each source.

Each example's place depends on the seed and its own source and number only. So the order of the
pool does not count, and a larger budget chooses what a smaller one does, and more.
"""

from __future__ import annotations

import hashlib

import numpy as np

from influence.selection.example_set import ExampleSet
from influence.selection.score_matrix import ScoreMatrix, score_matrix

EVERY = ("every query",)
"""The query of scores that depend on no validation example."""


def random_scores(pool: ExampleSet, seed: int) -> ScoreMatrix:
    """Scores the pool in random order: 1 for the first of N examples, 1/N for the last.

    Returns:
        (N, 1).
    """
    return _falling("random", pool, _draws(pool, seed))


def stratified_scores(pool: ExampleSet, seed: int) -> ScoreMatrix:
    """Scores the pool so that the best ones come from each source in equal numbers.

    The sources take turns, each giving a random example of its own, until it has none left. The
    scores are those of `random_scores` in this order. Stratified sampling is the row that no mixer
    beats reliably (Aioli, arXiv 2411.05735).

    Returns:
        (N, 1).
    """
    draws = _draws(pool, seed)
    turn = np.empty(len(pool), np.int64)
    for source in pool.sources:
        rows = pool.rows(source)
        turn[rows[np.argsort(draws[rows])]] = np.arange(len(rows))
    return _falling("stratified", pool, draws, turn)


def _draws(pool: ExampleSet, seed: int) -> np.ndarray:
    """Returns a random 64-bit number of each example."""
    keys = [f"{seed}/{each.number}/{each.source}".encode() for each in pool.examples]
    return np.array(
        [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) for key in keys], np.uint64
    )


def _falling(method: str, pool: ExampleSet, *keys: np.ndarray) -> ScoreMatrix:
    """Scores the pool by its order in the last key, ties by the one before it."""
    size = len(pool)
    scores = np.empty(size)
    scores[np.lexsort(keys)] = np.arange(size, 0, -1) / size
    return score_matrix(method, scores, pool, EVERY)
