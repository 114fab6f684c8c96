"""Measures points of a search on the live model; what was measured before is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workbench.session.loss_on_axis import FULL
from workbench.session.standing import PLAIN, Choice
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from evaluation.search import Measured
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session

GRADIENT_COST = 3
"""Evaluations that a loss with its derivatives counts as: on the demo it took 3.3 times as long as
the loss alone, on one thread."""


class Points:
    """Measures the losses of compositions on all examples of all open datasets.

    Args:
        session: the session.
        models: its open models.
        choice: the merge method and its parameters.

    Attributes:
        measured: how many points were measured, and not read from the workdir.
    """

    def __init__(self, session: Session, models: Models, choice: Choice = PLAIN) -> None:
        self._session, self._models, self._choice = session, models, choice
        self.measured = 0

    @property
    def has_gradients(self) -> bool:
        """Whether derivatives can be computed: for sums of vectors in a model written in place."""
        return self._choice == PLAIN and not self._models.loaded.reloads

    def recipe(self, omegas: Mapping[str, float]) -> Recipe:
        """Returns the recipe of a point."""
        return self._models.recipe(omegas, self._choice)

    def measure(self, omegas: Mapping[str, float], gradients: bool, stale: Stale) -> Measured:
        """Returns the losses of a point, with their derivatives if they are asked for.

        Raises:
            Stopped: `stale` became true; datasets that were measured before are kept.
            SessionError, MergingError: the point cannot be composed.
        """
        from evaluation.search import Measured

        recipe = self.recipe(omegas)
        book, identity = self._session.book, self._models.identity(recipe)
        known = [book.get(identity, data.keys[FULL]) for data in self._models.data.values()]
        slopes = self._slopes(identity)
        if gradients and slopes is None:
            self.measured += 1
            self._measure_slopes(recipe, identity, stale)
            slopes = self._slopes(identity)
        elif None in known:
            self.measured += 1
        losses = self._session.losses(recipe, FULL, stale)
        return Measured({name: loss.value for name, loss in losses.items()}, slopes)

    def _slopes(self, identity: str) -> dict[str, dict[str, float]] | None:
        """Returns the derivatives by dataset and vector; None unless all are known."""
        found: dict[str, dict[str, float]] = {}
        for dataset, data in self._models.data.items():
            known = self._session.book.slopes(identity, data.keys[FULL])
            if any(vector.identity not in known for vector in self._models.vectors.values()):
                return None
            found[dataset] = {
                name: known[vector.identity] for name, vector in self._models.vectors.items()
            }
        return found

    def _measure_slopes(self, recipe: Recipe, identity: str, stale: Stale) -> None:
        """Measures and stores the losses with their derivatives, dataset after dataset."""
        from evaluation.landscape.omega_gradient import slopes
        from evaluation.records.meter import Meter
        from workbench.session.keys import weights_key

        models, book = self._models, self._session.book
        vectors = list(models.vectors.values())
        meter = Meter(self._session.device)
        try:
            for data in models.data.values():
                # The live module is free between two datasets, for the pages.
                with self._session.composed(models, recipe, stale) as module, meter.running():
                    prepared = data.prepared[FULL]
                    (slope,) = slopes(
                        module, models.loaded.views, vectors, prepared, should_stop=stale
                    )
                meter.count(slope.loss.n, prepared.positions, slope.loss.tokens)
                book.put(identity, data.keys[FULL], slope.loss)
                values = slope.gradient.tolist()
                by_vector = {v.identity: by for v, by in zip(vectors, values, strict=True)}
                book.put_slopes(identity, data.keys[FULL], by_vector)
        # Also after an error: the time was spent.
        finally:
            phase = meter.phase("search", "gradients", digest=weights_key(recipe))
            self._session.ledger.add_all([phase])
