"""Chooses training examples from scores: by the best or the mean score, or in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from corpus.selection import Chosen
from influence.errors import InfluenceError
from influence.selection.budget import Budget, Limits
from influence.selection.example_set import ExampleSet
from influence.selection.score_matrix import ScoreMatrix
from influence.selection.texts_alike import Alike, CopyFilter
from plumbing.units import counted

Policy = Literal["round_robin", "max", "mean"]
"""How the scores of an example for Q queries decide.

"round_robin": the queries take turns, and each takes its best example that nobody has taken (greedy
round-robin, arXiv 2602.14696). "max": the examples with the best score for any query come first
(LESS, arXiv 2402.04333, with one query for each subtask). "mean": those with the best mean over the
queries.
"""


@dataclass(frozen=True)
class ChosenSet:
    """What was chosen from a pool, in the order of choice."""

    chosen: tuple[Chosen, ...]
    """Source, number and score of each. By round-robin it is the score for the query whose turn it
    was, else the maximum or the mean over the queries.
    """
    rows: tuple[int, ...]
    """Index of each in the pool."""
    queries: tuple[str, ...]
    """Name of the query whose turn it was, or whose score was the maximum; "" for the mean."""
    method: str
    """What made the scores."""
    policy: Policy
    used: int
    """How much of the budget was used, in its unit."""
    copies: int
    """How many examples were passed over because their text had been chosen."""
    in_words: str
    """One sentence about all this."""


def choose(
    pool: ExampleSet,
    scores: ScoreMatrix,
    budget: Budget,
    *,
    policy: Policy = "round_robin",
    copies: Alike | None = None,
    seed: int | None = 0,
) -> ChosenSet:
    """Chooses examples until the budget is filled.

    A budget is never exceeded: choosing ends at the first example that does not fit. So a smaller
    budget, without a share as its cap, chooses the beginning of what a larger one does. Of equal
    scores, the example that comes first in the pool is taken.

    Worked example of round-robin: with the scores a (9, 8), b (7, 1), c (2, 5) for two queries, the
    first takes a with 9, then the second takes c with 5, because a is taken, then the first takes b
    with 7.

    Args:
        pool: N examples.
        scores: (N, Q).
        budget: how much is chosen, and the most from each source.
        policy: see Policy.
        copies: which texts may be chosen only once, whatever their source; see Alike. None lets
            every example be chosen. Of two copies the one that is chosen first stays.
        seed: of the order in which queries take their turns. None takes them in their own order,
            which favours the first ones if the budget has fewer examples than there are queries.

    Raises:
        InfluenceError: the policy is unknown, the scores are of another pool, the budget exceeds
            the pool or is below its first example, or cap and copies leave too few examples.
    """
    if policy not in get_args(Policy):
        raise InfluenceError(f"the policy is {policy!r}; expected {', '.join(get_args(Policy))}.")
    if scores.examples != pool.names:
        raise InfluenceError(
            f"{scores.method}: the scores are those of {len(scores.examples):,} other examples, or "
            f"in another order than the {len(pool):,} of this pool. Score this pool."
        )
    values = policy_scores(scores, policy)
    turns = range(values.shape[1])
    if seed is not None:
        turns = np.random.default_rng(seed).permutation(values.shape[1]).tolist()
    limits, alike = Limits(pool, budget), CopyFilter(pool, copies)
    passed = 0

    def is_available(row: int) -> bool:
        nonlocal passed
        if not limits.is_open(row):
            return False
        is_copy = alike.is_copy(row)
        passed += is_copy
        return not is_copy

    picks: list[tuple[int, int]] = []
    for row, query in _take_turns(values, turns, is_available):
        if not limits.fits(row):
            break
        picks.append((row, query))
        limits.add(row)
        alike.add(row)
        if limits.used == limits.amount:
            break
    else:
        limits.refuse_shortfall(len(picks), passed)
    if not picks:
        raise InfluenceError(
            f"the budget is {limits.amount:,} {limits.in_words}, and the best example has "
            f"{limits.costs[row]:,} ({pool.examples[row].name}). Give a larger budget."
        )
    return ChosenSet(
        chosen=tuple(
            Chosen(pool.examples[row].source, pool.examples[row].number, float(values[row, query]))
            for row, query in picks
        ),
        rows=tuple(row for row, _ in picks),
        queries=tuple(_query(scores, policy, row, turn) for row, turn in picks),
        method=scores.method,
        policy=policy,
        used=limits.used,
        copies=passed,
        in_words=_in_words(scores.method, policy, len(picks), len(pool), limits, passed),
    )


def policy_scores(scores: ScoreMatrix, policy: Policy) -> NDArray[np.float32]:
    """Returns the scores that a policy goes by: (N, Q) for round-robin, else (N, 1)."""
    values = scores.values
    match policy:
        case "max":
            values = values.max(1, keepdims=True)
        case "mean":
            values = values.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    return values


def _take_turns(
    values: NDArray[np.float32], turns: Sequence[int], is_available: Callable[[int], bool]
) -> Iterator[tuple[int, int]]:
    """Yields (row, column): each column in turn with its best row that is left.

    Args:
        values: (rows, columns), higher is better.
        turns: the columns in the order of their turns.
        is_available: asked for rows that were not taken. Once False it has to stay False.
    """
    gone = np.zeros(len(values), np.bool_)
    # Stable, so that of equal scores the first row comes first.
    orders = {
        column: iter(np.argsort(-values[:, column], kind="stable").astype(np.int32))
        for column in turns
    }
    while True:
        for column in turns:
            for row in orders[column]:
                if not gone[row]:
                    gone[row] = True
                    if is_available(int(row)):
                        yield int(row), column
                        break
            else:
                return


def _query(scores: ScoreMatrix, policy: Policy, row: int, turn: int) -> str:
    """Returns the name of the query that an example was chosen for."""
    match policy:
        case "round_robin":
            return scores.queries[turn]
        case "max":
            return scores.queries[int(scores.values[row].argmax())]
        case "mean":
            return ""


def _in_words(
    method: str, policy: Policy, chosen: int, size: int, limits: Limits, copies: int
) -> str:
    text = f"{method}, {policy}: {chosen:,} of {counted(size, 'example')}"
    if limits.in_words != "examples":
        text += f", {limits.used:,} of {limits.amount:,} {limits.in_words} in the budget"
    if limits.cap is not None:
        text += f", at most {limits.cap:,} {limits.in_words} of each source"
    return text + (f"; {counted(copies, 'duplicate')} passed over" if copies else "")
