"""The front of a search: the trials that no other one beats on every dataset."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.search.contract import Trial


def front(trials: Sequence[Trial], datasets: Sequence[str]) -> list[Trial]:
    """Returns the trials that no other one beats, in their order.

    One trial beats another if no loss is higher and one is lower.

    Args:
        trials: those without losses, such as failed ones, are left out.
        datasets: whose losses count.
    """
    done = [
        (trial, [trial.measured.losses[name] for name in datasets])
        for trial in trials
        if trial.measured is not None
    ]
    return [trial for trial, losses in done if not any(_beats(other, losses) for _, other in done)]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    both = list(zip(one, other, strict=True))
    return all(a <= b for a, b in both) and any(a < b for a, b in both)
