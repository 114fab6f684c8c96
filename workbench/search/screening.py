"""Measures a few examples of a point first, and all of them only if it may be the best.

A point is compared with the best so far on the same few examples, example by example. If it is
worse beyond the error of that difference, the others are not measured.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workbench.search.paired import SURE, difference, squared_errors
from workbench.session.loss_on_axis import FULL, QUICK

if TYPE_CHECKING:
    from evaluation.search import Trial
    from evaluation.search.objective import Objective
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session
    from workbench.session.tickets import Stale

SHARE, FEWEST = 0.25, 8
"""The share of each dataset's examples that is measured first, and the fewest of them: the error of
a few differences is not known well enough."""


def few_of(examples: int) -> int:
    """Returns how many of a dataset's examples are measured first."""
    return min(examples, max(FEWEST, round(SHARE * examples)))


class Screening:
    """Tells from a few examples whether a point is surely worse than the best one.

    Args:
        session: measures the examples, and keeps their losses.
        models: open models whose quick examples are `few_of` all; see open_data.
        objective: what is minimised.

    Attributes:
        cost: of the few examples, as a part of an evaluation.
    """

    def __init__(self, session: Session, models: Models, objective: Objective) -> None:
        self._session, self._models, self._objective = session, models, objective
        sizes = {
            size: sum(data.prepared[size].positions for data in models.data.values())
            for size in (QUICK, FULL)
        }
        self.cost = sizes[QUICK] / sizes[FULL]

    def given_up(self, recipe: Recipe, best: Trial, of_best: Recipe, stale: Stale) -> float | None:
        """Returns the score that is expected of a point, if it is surely worse than the best.

        Args:
            recipe: the point's composition.
            best: the best trial so far, measured on all examples.
            of_best: its composition.
            stale: see Session.

        Returns:
            The best losses plus the differences on the few examples, as a score; None if all
            examples have to be measured.

        Raises:
            Stopped: `stale` became true.
            MergingError: the point cannot be composed.
        """
        assert best.measured is not None
        few = self._session.measuring.on_all(self._models, recipe, QUICK, stale)
        identity = self._models.identity(of_best)
        losses, errors = {}, {}
        for name, data in self._models.data.items():
            whole = self._session.book.get(identity, data.keys[FULL])
            # A cache of an older version has no examples.
            if whole is None or not (whole.sums and few[name].sums):
                return None
            # The few are the first ones.
            n = len(few[name].sums)
            first = whole._replace(sums=whole.sums[:n], counts=whole.counts[:n])
            gap, errors[name] = difference(few[name], first)
            losses[name] = best.measured.losses[name] + gap
        if not all(map(math.isfinite, losses.values())):
            return None
        slope = self._objective.slope(best.measured.losses)
        error = math.sqrt(sum(squared_errors(slope, errors).values()))
        score = self._objective.score(losses, errors)
        return score if score - best.score > SURE * error else None
