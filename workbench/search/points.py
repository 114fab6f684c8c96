"""Measures points of a search on the live model; what was measured before is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from workbench.search.coordinates import Coordinates, whole_vectors
from workbench.search.layer_groups import GroupBy
from workbench.search.measured import slopes_of
from workbench.search.paired import paired_errors
from workbench.session.loss_on_axis import FULL
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from evaluation.landscape.omega_gradient import Slope
    from evaluation.search import Measured
    from merging.recipe import Recipe
    from workbench.session.models import DataSet, Models
    from workbench.session.session import Session

GRADIENT_COST = 3
"""Evaluations that a loss with its derivatives counts as: on the demo it took 3.3 times as long as
the loss alone, on one thread."""
SMALL = 16_000_000
"""Parameters of a model of which a page measures unasked what helps it: as many float32 gradients
take 64 MB. On a larger model the geometry comes from its tab."""
MIDDLE = 500_000_000
"""Parameters of a model on an accelerator whose derivatives a page measures unasked, if they need
no gradient of a weight; see measures_slopes."""


def is_small(models: Models) -> bool:
    """Returns whether a model has at most SMALL parameters."""
    return _size(models) <= SMALL


def measures_slopes(models: Models, device: str) -> bool:
    """Returns whether a page measures derivatives unasked, while nobody waits.

    It does so on small models, and on larger ones on an accelerator if all vectors are adapters on
    layers of known kinds. Others get their derivatives from a search.

    Args:
        models: the open models.
        device: torch's name of the device that the model is on.
    """
    from evaluation.landscape.slope_paths import SlopePaths

    if is_small(models):
        return True
    # On two cores of a CPU, the real demo took minutes for one composition, four gigabytes, and
    # quick losses that came after 11 s instead of 3.
    if device == "cpu" or _size(models) > MIDDLE:
        return False
    loaded, vectors = models.loaded, list(models.vectors.values())
    return not SlopePaths(loaded.module, loaded.views, vectors).needs_weight_gradients


def _size(models: Models) -> int:
    return sum(each.numel() for each in models.loaded.module.parameters())


class Points:
    """Measures the losses of compositions on all examples of all open datasets.

    Args:
        session: the session.
        models: its open models.
        coordinates: what the points stand for; one ω for each open vector if not given.

    Attributes:
        measured: how many points were measured, and not read from the workdir.
    """

    def __init__(
        self, session: Session, models: Models, coordinates: Coordinates | None = None
    ) -> None:
        self._session, self._models = session, models
        self._coordinates = coordinates or whole_vectors(models)
        self._keys = self._coordinates.keys(models)
        self.measured = 0

    @property
    def has_gradients(self) -> bool:
        """Whether derivatives can be computed: for sums of vectors in a model written in place."""
        return self._coordinates.is_sum and not self._models.loaded.reloads

    def recipe(self, omegas: Mapping[str, float]) -> Recipe:
        """Returns the recipe of a point."""
        return self._coordinates.recipe(self._models, omegas)

    @property
    def groups(self) -> GroupBy:
        """What groups of layers are made by, if each has ω of its own; else ""."""
        return self._coordinates.by

    def measure(self, omegas: Mapping[str, float], gradients: bool, stale: Stale) -> Measured:
        """Returns the losses of a point, with their derivatives if they are asked for.

        Raises:
            Stopped, SessionError, MergingError: see `measure_recipe`.
        """
        return self.measure_recipe(self.recipe(omegas), gradients, stale)

    def measure_recipe(self, recipe: Recipe, gradients: bool, stale: Stale) -> Measured:
        """Returns the losses of a composition, with derivatives by the coordinates if asked for.

        Raises:
            Stopped: `stale` became true; datasets that were measured before are kept.
            SessionError, MergingError: the point cannot be composed.
        """
        from evaluation.search import Measured

        book, identity = self._session.book, self._models.identity(recipe)
        known = [book.get(identity, data.keys[FULL]) for data in self._models.data.values()]
        slopes = slopes_of(book, self._models, identity, self._keys)
        if gradients and slopes is None:
            self.measured += 1
            for _ in self._slope_steps(recipe, stale):
                pass
            slopes = slopes_of(book, self._models, identity, self._keys)
        elif None in known:
            self.measured += 1
        losses = self._session.losses(recipe, FULL, stale)
        return Measured({name: loss.value for name, loss in losses.items()}, slopes)

    def errors_to_base(self, recipe: Recipe) -> dict[str, float] | None:
        """Returns the standard errors of its losses above the base's; see paired_errors."""
        return paired_errors(self._session, self._models, recipe, self._models.recipe({}))

    def has_slopes(self, omegas: Mapping[str, float]) -> bool:
        """Returns whether the derivatives at a point were measured on all datasets."""
        return self.knows_slopes(self._models.identity(self.recipe(omegas)))

    def knows_slopes(self, composition: str) -> bool:
        """Returns whether the derivatives of a composition were measured; see Models.identity."""
        return slopes_of(self._session.book, self._models, composition, self._keys) is not None

    def slope_steps(
        self,
        omegas: Mapping[str, float],
        stale: Stale,
        waited: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Measures the losses of a point with their derivatives in steps, and stores them.

        The live module is free between two steps. Each step composes the point again if somebody
        else has used the module meanwhile. Datasets that were measured before are left out.

        Args:
            omegas: the point.
            stale: asked within each step.
            waited: asked within each step: True if somebody waits for the module. The step then
                ends at once, and is taken again.

        Raises:
            Stopped: `stale` became true; datasets that were measured before are kept.
        """
        return self._slope_steps(self.recipe(omegas), stale, waited)

    def _slope_steps(
        self, recipe: Recipe, stale: Stale, waited: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        from evaluation.errors import Stopped
        from evaluation.landscape.omega_gradient import SlopeSweep
        from evaluation.landscape.slope_paths import SlopePaths
        from evaluation.prepared import check_vocabulary
        from evaluation.records.meter import Meter
        from workbench.session.keys import weights_key

        models = self._models
        identity, vectors = models.identity(recipe), list(models.vectors.values())
        self._session.measuring.describe(models, recipe)

        def stop() -> bool:
            return stale() or waited()

        paths = SlopePaths(models.loaded.module, models.loaded.views, vectors)
        meter = Meter(self._session.device)
        try:
            for data in models.data.values():
                known = self._session.book.slopes(identity, data.keys[FULL])
                if known.keys() >= set(self._keys.values()):
                    continue
                prepared = data.prepared[FULL]
                check_vocabulary(models.loaded.module, prepared)
                (dataset,) = prepared.datasets
                sweep = SlopeSweep(paths, dataset)
                while not sweep.done:
                    try:
                        with self._session.composed(models, recipe, stop), meter.running():
                            sweep.step(stop)
                    # Somebody else comes first: this step is taken again.
                    except Stopped:
                        if stale():
                            raise
                    yield
                with meter.running():
                    slope = sweep.slope()
                meter.count(slope.loss.n, sweep.positions, slope.loss.tokens)
                self._store(identity, data, slope)
        # Also after an error: the time was spent.
        finally:
            phase = meter.phase("search", "gradients", digest=weights_key(recipe))
            self._session.ledger.add_all([phase])

    def _store(self, identity: str, data: DataSet, slope: Slope) -> None:
        book, key = self._session.book, data.keys[FULL]
        book.put(identity, key, slope.loss)
        book.put_slopes(identity, key, self._coordinates.slopes(slope, self._models))
