"""Explains a choice: near validation examples, best helpers, coverage by source, histogram.

Everything is plain data: dataclasses.asdict(reasons) is ready for JSON, and a page shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influence.rank_correlation import rank_correlation
from influence.selection.choose import ChosenSet, policy_scores
from influence.selection.example_set import ExampleSet
from influence.selection.score_matrix import ScoreMatrix

BINS = 40


@dataclass(frozen=True)
class NearQuery:
    """A query that a chosen example has a high score for."""

    query: int
    """Its number in Reasons.queries."""
    score: float


@dataclass(frozen=True)
class ChosenReason:
    """Why one example was chosen."""

    source: str
    number: int
    score: float
    query: str
    """Name of the query that it was chosen for; "" for the mean."""
    nearest: tuple[NearQuery, ...]
    """The queries with its highest scores, best first."""
    text: str


@dataclass(frozen=True)
class Helper:
    """An example of the pool with a high score for a query."""

    source: str
    number: int
    score: float
    rank: int | None
    """Its place in the choice, from 1; None if it was not chosen."""
    text: str


@dataclass(frozen=True)
class QueryHelp:
    """What the pool holds for one query."""

    name: str
    helpers: tuple[Helper, ...]
    """The examples with the highest scores for it, chosen or not, best first."""
    chosen: int
    """How many examples were chosen for it; 0 if the choice was made for other queries."""
    text: str
    """The text of the validation example; "" if the query is none."""


@dataclass(frozen=True)
class SourceCoverage:
    """How much of a choice is from one source."""

    source: str
    pool: int
    """Number of its examples in the pool."""
    chosen: int
    """Number of its examples in the choice."""
    pool_share: float
    """Its share of the pool, 0 to 1."""
    chosen_share: float
    """Its share of the choice, 0 to 1."""
    supervised: int
    """Supervised tokens of its chosen examples."""


@dataclass(frozen=True)
class ScoreHistogram:
    """How the scores of the pool and of the chosen examples are distributed.

    An example's score is the mean over the queries if the policy is the mean, else the maximum.
    """

    edges: tuple[float, ...]
    """BINS + 1 edges; the last bin includes its upper edge."""
    pool: tuple[int, ...]
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class Reasons:
    """Why a choice is what it is."""

    method: str
    policy: str
    in_words: str
    chosen: tuple[ChosenReason, ...]
    queries: tuple[QueryHelp, ...]
    sources: tuple[SourceCoverage, ...]
    histogram: ScoreHistogram
    length_correlation: float | None
    """Spearman's correlation of the pool's scores with its numbers of supervised tokens.

    Far below 0 the method prefers short examples, as LESS would without the cosine (arXiv
    2402.04333, table 13). None if all scores or all lengths are equal.
    """


def explain(
    pool: ExampleSet,
    targets: ExampleSet,
    scores: ScoreMatrix,
    choice: ChosenSet,
    *,
    most: int = 5,
) -> Reasons:
    """Explains a choice by the scores that it was made by, or by those of another method.

    Scores of another method explain choices by chance, which know no queries: what RDS+ thinks of a
    random draw, for example.

    Args:
        pool: N examples.
        targets: the validation examples; their texts are shown where the queries are these.
        scores: (N, Q).
        choice: what was chosen of the pool.
        most: how many queries of an example, and examples of a query, are listed.
    """
    texts = targets.texts if scores.queries == targets.names else [""] * len(scores.queries)
    ranks = {row: rank for rank, row in enumerate(choice.rows, 1)}
    single = policy_scores(scores, "mean" if choice.policy == "mean" else "max")[:, 0]
    return Reasons(
        method=scores.method,
        policy=choice.policy,
        in_words=choice.in_words,
        chosen=tuple(
            ChosenReason(
                *chosen, query, _nearest(scores.values[row], most), pool.examples[row].text
            )
            for chosen, row, query in zip(choice.chosen, choice.rows, choice.queries, strict=True)
        ),
        queries=tuple(
            QueryHelp(
                name,
                _helpers(pool, scores.values[:, query], ranks, most),
                choice.queries.count(name),
                texts[query],
            )
            for query, name in enumerate(scores.queries)
        ),
        sources=coverage(pool, choice),
        histogram=_histogram(single, choice),
        length_correlation=_length_correlation(pool, single),
    )


def coverage(pool: ExampleSet, choice: ChosenSet) -> tuple[SourceCoverage, ...]:
    """Compares the share of each source in a choice with its share in the pool."""
    rows = np.array(choice.rows)
    found = []
    for source in pool.sources:
        own = pool.rows(source)
        chosen = np.intersect1d(own, rows)
        found.append(
            SourceCoverage(
                source,
                len(own),
                len(chosen),
                len(own) / len(pool),
                len(chosen) / len(rows),
                sum(pool.examples[row].supervised for row in chosen),
            )
        )
    return tuple(found)


def _best(scores: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Returns the indices of the highest scores, best first, ties by index."""
    return np.argsort(-scores, kind="stable")[:most]


def _nearest(scores: NDArray[np.float32], most: int) -> tuple[NearQuery, ...]:
    return tuple(NearQuery(int(query), float(scores[query])) for query in _best(scores, most))


def _helpers(
    pool: ExampleSet, scores: NDArray[np.float32], ranks: dict[int, int], most: int
) -> tuple[Helper, ...]:
    best = [(int(row), pool.examples[row]) for row in _best(scores, most)]
    return tuple(
        Helper(each.source, each.number, float(scores[row]), ranks.get(row), each.text)
        for row, each in best
    )


def _histogram(scores: NDArray[np.float32], choice: ChosenSet) -> ScoreHistogram:
    pool, edges = np.histogram(scores, bins=BINS)
    chosen, _ = np.histogram(scores[list(choice.rows)], bins=edges)
    return ScoreHistogram(tuple(edges.tolist()), tuple(pool.tolist()), tuple(chosen.tolist()))


def _length_correlation(pool: ExampleSet, scores: NDArray[np.float32]) -> float | None:
    found = rank_correlation(scores.tolist(), [each.supervised for each in pool.examples])
    return None if math.isnan(found) else found
