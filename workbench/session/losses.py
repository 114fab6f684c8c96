"""Losses: the losses of compositions, read from the cache or measured on the live module."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.session.loss_cache import Entry, LossCache
from workbench.session.models import Models
from workbench.session.sizes import FULL, QUICK
from workbench.session.spending import LossLedger, Tally
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from merging.recipe import Recipe

Stage = Literal["preview", "composing", "measuring", "exact"]
"""How far a Reading is: "exact" is the last one, with all losses of the composed recipe."""


@dataclass(frozen=True)
class LossOnAxis:
    """The loss of one dataset, between the two ends of its axis; all on the same examples.

    Attributes:
        loss: loss of the composition.
        base: loss of the base, one end of the axis.
        expert: loss of the vector named like the dataset at ω = 1, the other end; None if no vector
            has this name.
        quick: whether only the first QUICK_EXAMPLES examples were measured, of a larger dataset.
    """

    loss: Entry
    base: Entry
    expert: Entry | None
    quick: bool


@dataclass(frozen=True)
class Reading:
    """What is known about a composition at one moment of its measurement.

    Attributes:
        recipe: the composition.
        stage: how far the measurement is.
        points: dataset -> its loss, as far as it is known.
        seconds: time since the measurement began.
    """

    recipe: Recipe
    stage: Stage
    points: Mapping[str, LossOnAxis] = field(default_factory=dict)
    seconds: float = 0.0


class Losses:
    """Measures losses on the live module and keeps them in the cache.

    Args:
        book: the cache of losses.
        lock: the lock of the live module.
        spending: writes to the ledger what each measurement cost.
    """

    def __init__(self, book: LossCache, lock: AbstractContextManager[Any], spending: LossLedger):
        self._book, self._lock, self._spending = book, lock, spending

    def measure(
        self, models: Models, recipe: Recipe, *, stale: Stale, full: bool
    ) -> Iterator[Reading]:
        """Composes a recipe and yields its losses as they become known.

        The quick losses of all datasets come first. If `full`, the losses on all examples follow,
        one dataset after the other. It ends early, without an "exact" reading, once it is stale.
        """
        # Around the generator, so that the cost is written also if the page leaves in the middle.
        with self._spending.tally() as tally:
            yield from self._measure(models, recipe, stale, full, tally)

    def _measure(
        self, models: Models, recipe: Recipe, stale: Stale, full: bool, tally: Tally
    ) -> Iterator[Reading]:
        from evaluation.errors import Stopped

        begin = time.monotonic()
        points: dict[str, LossOnAxis] = {}

        def reading(stage: Stage) -> Reading:
            return Reading(recipe, stage, dict(points), time.monotonic() - begin)

        yield reading("composing")
        try:
            self._compose(models, recipe, stale, full, tally)
            shown = time.monotonic()
            for size in (QUICK, FULL) if full else (QUICK,):
                for name in models.data:
                    if stale():
                        return
                    known = self._known(models, recipe, name)
                    points[name] = known or self._point(models, recipe, name, size, stale, tally)
                    # The quick bars of a small model move together, not one by one.
                    if size == FULL or time.monotonic() - shown > 0.5:
                        shown = time.monotonic()
                        yield reading("measuring")
                yield reading("measuring")
            # Measuring the ends of an axis composed other recipes in between.
            self._compose(models, recipe, stale, full, tally)
        except Stopped:
            return
        if not stale():
            yield reading("exact")

    def preview(
        self, models: Models, settled: Recipe, recipe: Recipe, stale: Stale
    ) -> Reading | None:
        """Returns quick losses while a slider moves, without writing a weight.

        The LoRA vectors that moved are mounted on the settled weights; see Composer.mounted. These
        losses equal those of the composition up to rounding only, so they are not cached. The ends
        of the axes are read from the cache. A dataset whose ends are not cached is left out,
        because measuring them would write weights.

        Returns:
            A reading, or None if it became stale or no dataset is left.

        Raises:
            NotMounted: this move has to be composed; the message says why.
        """
        from evaluation.errors import Stopped
        from evaluation.loss import losses

        begin = time.monotonic()
        points: dict[str, LossOnAxis] = {}
        try:
            with (
                self._lock,
                self._spending.preview() as meter,
                models.composer.mounted(settled, recipe, stale) as module,
            ):
                for name, data in models.data.items():
                    if ends := self._known_ends(models, name):
                        loss = next(iter(losses(module, data.prepared[QUICK], should_stop=stale)))
                        meter.count(loss.n, data.prepared[QUICK].positions, loss.tokens)
                        points[name] = LossOnAxis(Entry(*loss), *ends, quick=True)
        except Stopped:
            return None
        return (
            Reading(recipe, "preview", points, time.monotonic() - begin)
            if points and not stale()
            else None
        )

    def of(
        self,
        models: Models,
        recipe: Recipe,
        dataset: str,
        size: str = FULL,
        stale: Stale = lambda: False,
    ) -> Entry:
        """Returns the loss of a recipe on one dataset, from the cache or measured now.

        Raises:
            Stopped: `stale` became true before the end.
        """
        with self._spending.tally() as tally:
            return self._of(models, recipe, dataset, size, stale, tally)

    def on_all(
        self, models: Models, recipe: Recipe, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, Entry]:
        """Returns the losses on every dataset, by name; their cost is one row of the ledger.

        Raises:
            Stopped: `stale` became true before the end.
        """
        with self._spending.tally() as tally:
            return {
                name: self._of(models, recipe, name, size, stale, tally) for name in models.data
            }

    def _of(
        self, models: Models, recipe: Recipe, dataset: str, size: str, stale: Stale, tally: Tally
    ) -> Entry:
        from evaluation.loss import losses

        data = models.data[dataset]
        identity = models.identity(recipe)
        # The same examples may be open under another name, so the cached name is replaced.
        if cached := self._book.get(identity, data.keys[size]):
            return cached._replace(dataset=dataset)
        # A small dataset has the same examples in both sizes, so its quick loss is a full one.
        actual = FULL if data.keys[size] == data.keys[FULL] else size
        # The lock comes first: time spent waiting for another page is no cost of this composition.
        with self._lock, tally.on(recipe, actual) as meter:
            module = models.composer.compose(recipe, stale)
            loss = next(iter(losses(module, data.prepared[size], should_stop=stale)))
            meter.count(loss.n, data.prepared[size].positions, loss.tokens)
        return self._book.put(identity, data.keys[size], loss)

    def ends(
        self, models: Models, dataset: str, size: str = FULL, stale: Stale = lambda: False
    ) -> tuple[Entry, Entry | None]:
        """Returns the two ends of a dataset's axis.

        They are the loss of the base and the loss of the vector named like the dataset at ω = 1,
        which is None if no vector has this name.
        """
        with self._spending.tally() as tally:
            return self._ends(models, dataset, size, stale, tally)

    def _ends(
        self, models: Models, dataset: str, size: str, stale: Stale, tally: Tally
    ) -> tuple[Entry, Entry | None]:
        expert = _expert(models, dataset)
        base = self._of(models, models.recipe({}), dataset, size, stale, tally)
        return base, self._of(models, expert, dataset, size, stale, tally) if expert else None

    def interference(self, models: Models, stale: Stale) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the interference table after each row that was measured.

        Yields:
            Two float64 arrays of shape (vectors, datasets): the loss of each dataset under each
            vector alone at ω = 1, and its standard error. Cells not measured yet are NaN.
        """
        with self._spending.tally() as tally:
            yield from self._interference(models, stale, tally)

    def _interference(
        self, models: Models, stale: Stale, tally: Tally
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        from evaluation.errors import Stopped

        values = np.full((len(models.names), len(models.data)), np.nan)
        errors = values.copy()
        for row, vector in enumerate(models.names):
            alone = models.recipe({vector: 1.0})
            for column, dataset in enumerate(models.data):
                try:
                    loss = self._of(models, alone, dataset, FULL, stale, tally)
                except Stopped:
                    return
                values[row, column], errors[row, column] = loss.value, loss.stderr
            # Copies, because the page may still draw one table while the next row is filled in.
            yield values.copy(), errors.copy()

    def known_interference(self, models: Models) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the interference table if every cell was measured before, else None."""
        cells = [
            [
                self._book.get(models.identity(models.recipe({vector: 1.0})), data.keys[FULL])
                for data in models.data.values()
            ]
            for vector in models.names
        ]
        if not models.data or any(cell is None for row in cells for cell in row):
            return None
        both = np.array([[(cell.value, cell.stderr) for cell in row if cell] for row in cells])
        return both[..., 0], both[..., 1]

    def _compose(
        self, models: Models, recipe: Recipe, stale: Stale, full: bool, tally: Tally
    ) -> None:
        with self._lock, tally.on(recipe, FULL if full else QUICK):
            models.composer.compose(recipe, stale)

    def _known(self, models: Models, recipe: Recipe, dataset: str) -> LossOnAxis | None:
        """Returns the full loss and its ends if all were measured before, else None."""
        base, expert = models.recipe({}), _expert(models, dataset)
        key = models.data[dataset].keys[FULL]
        wanted = [recipe, base, *([expert] if expert else [])]
        parts = [self._book.get(models.identity(needed), key) for needed in wanted]
        if any(part is None for part in parts):
            return None
        return LossOnAxis(parts[0], parts[1], parts[2] if expert else None, quick=False)  # type: ignore[arg-type]

    def _known_ends(self, models: Models, dataset: str) -> tuple[Entry, Entry | None] | None:
        """Returns the quick ends of a dataset's axis if they were measured before, else None."""
        key, expert = models.data[dataset].keys[QUICK], _expert(models, dataset)
        base = self._book.get(models.identity(models.recipe({})), key)
        best = self._book.get(models.identity(expert), key) if expert else None
        return None if base is None or (expert and best is None) else (base, best)

    def _point(
        self, models: Models, recipe: Recipe, dataset: str, size: str, stale: Stale, tally: Tally
    ) -> LossOnAxis:
        loss = self._of(models, recipe, dataset, size, stale, tally)
        base, expert = self._ends(models, dataset, size, stale, tally)
        is_small = models.data[dataset].keys[QUICK] == models.data[dataset].keys[FULL]
        return LossOnAxis(loss, base, expert, quick=size == QUICK and not is_small)


def _expert(models: Models, dataset: str) -> Recipe | None:
    """Returns the recipe of the vector named like the dataset at ω = 1, or None."""
    return models.recipe({dataset: 1.0}) if dataset in models.vectors else None
