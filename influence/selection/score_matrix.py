"""A score of each example of a pool for each query: what every method of selection gives.

LESS, RDS+, BM25, random and stratified draws differ in nothing else, so that they are chosen from,
explained and compared by the same code. A query is a validation example, or a whole subtask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from influence.errors import InfluenceError
from influence.selection.example_set import ExampleSet
from plumbing.suggest import listed


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """The score of N examples for Q queries; higher is better."""

    method: str
    """What made the scores, such as "RDS+"."""
    values: NDArray[np.float32]
    """(N, Q)."""
    examples: tuple[str, ...]
    """Name of each example; see ExampleSet.names."""
    queries: tuple[str, ...]
    """Name of each query: of a validation example, or of a subtask."""


def score_matrix(
    method: str,
    values: ArrayLike,
    pool: ExampleSet,
    queries: Sequence[str],
    *,
    zero_rows: bool = False,
) -> ScoreMatrix:
    """Checks scores and returns them in one form.

    Args:
        method: what made the scores.
        values: (N, Q), or (N,) for one query.
        pool: the N examples.
        queries: names of the Q queries.
        zero_rows: whether an example may score 0 for every query. So it may by words that it
            shares, and not by vectors: it then has a vector of zeros, such as the gradient of an
            example without supervised tokens.

    Raises:
        InfluenceError: the shape does not fit, a score is not finite, an example scores 0 for
            every query, or a query gives every example a score of 0. Examples and queries are
            named.
    """
    scores = np.asarray(values, dtype=np.float32)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if scores.shape != (len(pool), len(queries)):
        raise InfluenceError(
            f"{method}: the scores have the shape {scores.shape}; expected a row for each of "
            f"{len(pool)} examples and a column for each of {len(queries)} queries."
        )
    finite, other = np.isfinite(scores), scores != 0
    # Queries first: one that is broken would otherwise blame every example.
    _refuse(~finite.any(0), queries, f"{method}: no score is finite for the query")
    _refuse(~finite.all(1), pool.names, f"{method}: not every score is finite of the example")
    _refuse(~other.any(0), queries, f"{method}: every example scores 0 for the query")
    if not zero_rows:
        _refuse(~other.any(1), pool.names, f"{method}: every query scores 0 for the example")
    return ScoreMatrix(method, scores, pool.names, tuple(queries))


def by_subtask(scores: ScoreMatrix, targets: ExampleSet) -> ScoreMatrix:
    """Averages the scores over the validation examples of each subtask.

    This is LESS's released reading of a score for a subtask, the mean of cosines (arXiv 2402.04333,
    code; its paper takes the cosine with the mean gradient). Subtasks may differ in size.

    Args:
        scores: (N, V), one query for each validation example.
        targets: the V validation examples; their sources are the J subtasks.

    Returns:
        (N, J), one query for each subtask.

    Raises:
        InfluenceError: the queries are not the validation examples.
    """
    if scores.queries != targets.names:
        raise InfluenceError(
            f"{scores.method}: the {len(scores.queries)} queries are not the {len(targets)} "
            "validation examples. Score each validation example first."
        )
    means = [
        scores.values[:, targets.rows(name)].mean(1, dtype=np.float64) for name in targets.sources
    ]
    values = np.stack(means, axis=1).astype(np.float32)
    return replace(scores, values=values, queries=targets.sources)


def _refuse(faulty: ArrayLike, names: Sequence[str], fault: str) -> None:
    bad = np.asarray(faulty, np.bool_)
    if bad.any():
        shown = listed([name for name, is_bad in zip(names, bad, strict=True) if is_bad])
        raise InfluenceError(
            f"{fault} {shown} ({int(bad.sum())} of {len(bad)}). Correct them, or leave them out."
        )
