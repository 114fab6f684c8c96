"""Whether the data can tell the best composition of a search from the next different one.

Both were measured on the same examples, so their difference is taken example by example: an example
that is hard for one is hard for both. The score's difference is Σ (∂score/∂lossₖ) · (difference of
the losses on dataset k), and its error follows from those of the datasets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.search.paired import SURE, paired_errors, squared_errors
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.search import Trial
    from workbench.search.running import Search
    from workbench.session.models import Models
    from workbench.session.session import Session

APART = 0.1
"""Compositions of which no ω differs by more than this are taken for the same."""
HOPELESS = 100
"""If more than so many times the examples were needed, no number is named."""


@dataclass(frozen=True)
class Ranking:
    """The best composition against the next different one.

    Attributes:
        other: ω of the next different one.
        gap: by how much its score is higher.
        error: standard error of `gap`.
        dataset: the dataset that adds most to the error.
        examples: how many examples it has.
        needed: how many it would need for the gap to be SURE errors wide; None if no number of its
            examples alone would do, or more than HOPELESS times as many.
    """

    other: Mapping[str, float]
    gap: float
    error: float
    dataset: str
    examples: int
    needed: int | None

    @property
    def sure(self) -> bool:
        """Whether the best one is better beyond chance."""
        return self.gap >= SURE * self.error

    def words(self) -> str:
        """Returns what it says, as one sentence for the user."""
        if self.sure:
            return (
                f"The best is better than the next different one by {self.gap:.4f} "
                f"± {self.error:.4f}."
            )
        start = (
            f"The next different one is as good within the error: its score is higher by "
            f"{self.gap:.4f} ± {self.error:.4f}."
        )
        if self.needed is None:
            return start
        return (
            f"{start} {self.dataset} has too few examples to rank them: {self.examples:,}, and "
            f"it would need about {self.needed:,}."
        )


def ranking(search: Search, session: Session, models: Models) -> Ranking | None:
    """Returns how sure the best of a search is; None if nothing different was measured.

    Args:
        search: that has ended, or has measured some points.
        session: its session.
        models: its open models.
    """
    best, searcher, objective = search.best, search.searcher, search.objective
    if best is None or best.measured is None or searcher is None or objective is None:
        return None
    others = [trial for trial in searcher.trials if trial.measured and _apart(trial, best)]
    if not others:
        return None
    other = min(others, key=lambda trial: trial.score)
    errors = paired_errors(session, models, search.recipe_of(other), search.recipe_of(best))
    if errors is None:
        return None
    counts = {name: data.prepared[FULL].datasets[0].n for name, data in models.data.items()}
    return _of(other, best, objective.slope(best.measured.losses), errors, counts)


def _apart(one: Trial, other: Trial) -> bool:
    return any(abs(omega - other.point[name]) > APART for name, omega in one.point.items())


def _of(
    other: Trial,
    best: Trial,
    slope: Mapping[str, float],
    errors: Mapping[str, float],
    counts: Mapping[str, int],
) -> Ranking:
    """Returns the ranking from the errors of the differences on each dataset."""
    squares = squared_errors(slope, errors)
    worst = max(squares, key=squares.__getitem__)
    gap, error, n = other.score - best.score, math.sqrt(sum(squares.values())), counts[worst]
    return Ranking(other.point, gap, error, worst, n, _needed(gap, squares, worst, n))


def _needed(gap: float, squares: Mapping[str, float], worst: str, n: int) -> int | None:
    """Returns how many examples the worst dataset needs, when the others keep theirs.

    Its share of the squared error falls with 1/n, and the sum is to be (gap / SURE)².
    """
    left = (gap / SURE) ** 2 - (sum(squares.values()) - squares[worst])
    if left <= 0:
        return None
    needed = math.ceil(n * squares[worst] / left)
    return needed if needed <= HOPELESS * n else None
