"""Losses of compositions: read from the book where they were measured before, else measured on the one live module."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.session.loss_cache import Entry, LossCache
from workbench.session.models import Models
from workbench.session.sizes import FULL, QUICK, Stale
from workbench.session.spending import LossLedger, Tally

if TYPE_CHECKING:
    from merging.recipe import Recipe

Stage = Literal["preview", "composing", "measuring", "exact"]


@dataclass(frozen=True)
class LossOnAxis:
    """One dataset's loss under a composition, and the two ends of its axis, all on the same examples."""

    loss: Entry
    base: Entry
    expert: Entry | None
    quick: bool


@dataclass(frozen=True)
class Reading:
    """What is known about a composition at some moment of measuring it."""

    recipe: Recipe
    stage: Stage
    points: Mapping[str, LossOnAxis] = field(default_factory=dict)
    seconds: float = 0.0


class Losses:
    """Measures under the lock of the live module, and keeps what it measured.

    Args:
        book: where losses are kept.
        lock: whoever holds it may change the live module.
        spending: writes what each verb spent.
    """

    def __init__(self, book: LossCache, lock: AbstractContextManager[Any], spending: LossLedger):
        self._book, self._lock, self._spending = book, lock, spending

    def measure(
        self, models: Models, recipe: Recipe, *, stale: Stale, full: bool
    ) -> Iterator[Reading]:
        """Compose, then the losses: quick ones first, all at once, then each on its whole validation set.

        Ends early, without an `exact` reading, once it is stale.
        """
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
                    if (
                        size == FULL or time.monotonic() - shown > 0.5
                    ):  # a small model's quick bars move together
                        shown = time.monotonic()
                        yield reading("measuring")
                yield reading("measuring")
            self._compose(models, recipe, stale, full, tally)
        except Stopped:
            return
        if not stale():
            yield reading("exact")

    def preview(
        self, models: Models, settled: Recipe, recipe: Recipe, stale: Stale
    ) -> Reading | None:
        """The quick losses of a move while it lasts: on the settled weights, with the adapters that moved mounted there.

        Nothing of it is kept: up to rounding only are these the composition's losses. Ends of the axis are read from the
        book, and a dataset whose ends are not in it is left out, for measuring them would write weights.

        Returns:
            None where it became stale, or no dataset is left.

        Raises:
            NotMounted: saying why this move has to be composed.
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
                        found = next(iter(losses(module, data.prepared[QUICK], should_stop=stale)))
                        meter.count(found.n, data.prepared[QUICK].positions, found.tokens)
                        points[name] = LossOnAxis(Entry(*found), *ends, quick=True)
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
        """One loss, from the book or measured now.

        Raises:
            Stopped: it became stale on the way.
        """
        with self._spending.tally() as tally:
            return self._of(models, recipe, dataset, size, stale, tally)

    def on_all(
        self, models: Models, recipe: Recipe, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, Entry]:
        """The losses on every dataset: one row of the ledger, a whole sweep.

        Raises:
            Stopped: it became stale on the way.
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
        if known := self._book.get(identity, data.keys[size]):
            return known._replace(dataset=dataset)
        whole = FULL if data.keys[size] == data.keys[FULL] else size
        with self._lock, tally.on(recipe, whole) as meter:
            module = models.composer.compose(recipe, stale)
            found = next(iter(losses(module, data.prepared[size], should_stop=stale)))
            meter.count(found.n, data.prepared[size].positions, found.tokens)
        return self._book.put(identity, data.keys[size], found)

    def ends(
        self, models: Models, dataset: str, size: str = FULL, stale: Stale = lambda: False
    ) -> tuple[Entry, Entry | None]:
        """The two ends of a dataset's axis: the base, and the vector that bears the dataset's name at ω = 1."""
        with self._spending.tally() as tally:
            return self._ends(models, dataset, size, stale, tally)

    def _ends(
        self, models: Models, dataset: str, size: str, stale: Stale, tally: Tally
    ) -> tuple[Entry, Entry | None]:
        expert = _expert(models, dataset)
        base = self._of(models, models.recipe({}), dataset, size, stale, tally)
        return base, self._of(models, expert, dataset, size, stale, tally) if expert else None

    def interference(self, models: Models, stale: Stale) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Losses of each dataset (columns) under each vector alone at ω = 1 (rows), and their errors, as they come.

        Not yet measured cells are NaN.
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
                    found = self._of(models, alone, dataset, FULL, stale, tally)
                except Stopped:
                    return
                values[row, column], errors[row, column] = found.value, found.stderr
            yield values.copy(), errors.copy()

    def known_interference(self, models: Models) -> tuple[np.ndarray, np.ndarray] | None:
        """The interference table if every cell was measured before, else None."""
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
        """A full point, if all its parts were measured before."""
        base, expert = models.recipe({}), _expert(models, dataset)
        key = models.data[dataset].keys[FULL]
        wanted = [recipe, base, *([expert] if expert else [])]
        parts = [self._book.get(models.identity(one), key) for one in wanted]
        if any(part is None for part in parts):
            return None
        return LossOnAxis(parts[0], parts[1], parts[2] if expert else None, quick=False)  # type: ignore[arg-type]

    def _known_ends(self, models: Models, dataset: str) -> tuple[Entry, Entry | None] | None:
        """The two ends of a dataset's axis on the quick examples, if they were measured before."""
        key, expert = models.data[dataset].keys[QUICK], _expert(models, dataset)
        base = self._book.get(models.identity(models.recipe({})), key)
        best = self._book.get(models.identity(expert), key) if expert else None
        return None if base is None or (expert and best is None) else (base, best)

    def _point(
        self, models: Models, recipe: Recipe, dataset: str, size: str, stale: Stale, tally: Tally
    ) -> LossOnAxis:
        loss = self._of(models, recipe, dataset, size, stale, tally)
        base, expert = self._ends(models, dataset, size, stale, tally)
        whole = models.data[dataset].keys[QUICK] == models.data[dataset].keys[FULL]
        return LossOnAxis(loss, base, expert, quick=size == QUICK and not whole)


def _expert(models: Models, dataset: str) -> Recipe | None:
    return models.recipe({dataset: 1.0}) if dataset in models.vectors else None
