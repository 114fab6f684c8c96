"""Losses: the losses of compositions, read from the cache or measured on the live module."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.session.loss_cache import Entry, LossCache
from workbench.session.models import Models
from workbench.session.reading import FULL, QUICK, LossOnAxis, Reading
from workbench.session.spending import LossLedger, Tally
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from merging.recipe import Recipe

T = TypeVar("T")
SLICE = 0.02
"""Seconds of a step on the live module; after it, another page's more urgent work may come in."""


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
        from evaluation.errors import Stopped

        begin = time.monotonic()
        yield Reading(recipe, "composing")
        # Around the generator, so that the cost is written also if the page leaves in the middle.
        with self._spending.tally() as tally:
            try:
                self._compose(models, recipe, stale, full, tally)
                points: dict[str, LossOnAxis] = {}
                for size in (QUICK, FULL) if full else (QUICK,):
                    for step in self.steps(models, recipe, size, points, stale, tally):
                        if step:
                            yield Reading(recipe, "measuring", step, time.monotonic() - begin)
                        points = step or points
                # Measuring the ends of an axis composed other recipes in between.
                self._compose(models, recipe, stale, full, tally)
            except Stopped:
                return
            if not stale():
                yield Reading(recipe, "exact", points, time.monotonic() - begin)

    def steps(
        self,
        models: Models,
        recipe: Recipe,
        size: str,
        points: Mapping[str, LossOnAxis],
        stale: Stale,
        tally: Tally,
    ) -> Iterator[dict[str, LossOnAxis] | None]:
        """Measures the losses of a recipe on every dataset in steps of about SLICE seconds.

        The live module is free between two steps. Each step composes the recipe again if somebody
        else has used the module meanwhile.

        Args:
            models: the open models.
            recipe: the composition.
            size: QUICK or FULL.
            points: the losses that are known already, by dataset.
            stale: asked before each step.
            tally: the meters of this measurement.

        Yields:
            None after a step; all losses so far whenever the page is to show them: once for QUICK,
            after each dataset for FULL.

        Raises:
            Stopped: `stale` became true.
        """
        points, shown = dict(points), time.monotonic()
        for name in models.data:
            known = self._known(models, recipe, name)
            points[name] = known or (
                yield from self._point(models, recipe, name, size, stale, tally)
            )
            # The quick bars of a small model move together, not one by one.
            if size == FULL or time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                yield dict(points)
        yield dict(points)

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
            return _result(self._of(models, recipe, dataset, size, stale, tally))

    def on_all(
        self, models: Models, recipe: Recipe, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, Entry]:
        """Returns the losses on every dataset, by name; their cost is one row of the ledger.

        Raises:
            Stopped: `stale` became true before the end.
        """
        with self._spending.tally() as tally:
            return {
                name: _result(self._of(models, recipe, name, size, stale, tally))
                for name in models.data
            }

    def _of(
        self, models: Models, recipe: Recipe, dataset: str, size: str, stale: Stale, tally: Tally
    ) -> Generator[None, None, Entry]:
        """Measures the loss of a recipe on one dataset, in steps, unless it is known."""
        from evaluation.errors import Stopped
        from evaluation.loss import Sweep, check_vocabulary

        data = models.data[dataset]
        identity = models.identity(recipe)
        # The same examples may be open under another name, so the cached name is replaced.
        if cached := self._book.get(identity, data.keys[size]):
            return cached._replace(dataset=dataset)
        # A small dataset has the same examples in both sizes, so its quick loss is a full one.
        actual = FULL if data.keys[size] == data.keys[FULL] else size
        check_vocabulary(models.loaded.module, data.prepared[size])
        sweep = Sweep(data.prepared[size].datasets[0])
        with tally.sweep(recipe, actual) as running:
            while not sweep.done:
                # The lock comes first: time spent waiting for another page is no cost of this one.
                with self._lock, running() as meter:
                    begin = time.monotonic()
                    module = models.composer.compose(recipe, stale)
                    while not sweep.done and time.monotonic() - begin < SLICE:
                        if stale():
                            raise Stopped(f"stopped at dataset {dataset!r}")
                        sweep.step(module)
                if not sweep.done:
                    yield
            loss = sweep.loss()
            meter.count(loss.n, sweep.positions, loss.tokens)
        return self._book.put(identity, data.keys[size], loss)

    def ends(
        self, models: Models, dataset: str, size: str = FULL, stale: Stale = lambda: False
    ) -> tuple[Entry, Entry | None]:
        """Returns the two ends of a dataset's axis.

        They are the loss of the base and the loss of the vector named like the dataset at ω = 1,
        which is None if no vector has this name.
        """
        with self._spending.tally() as tally:
            return _result(self._ends(models, dataset, size, stale, tally))

    def _ends(
        self, models: Models, dataset: str, size: str, stale: Stale, tally: Tally
    ) -> Generator[None, None, tuple[Entry, Entry | None]]:
        expert = _expert(models, dataset)
        base = yield from self._of(models, models.recipe({}), dataset, size, stale, tally)
        if expert is None:
            return base, None
        return base, (yield from self._of(models, expert, dataset, size, stale, tally))

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
    ) -> Generator[None, None, LossOnAxis]:
        loss = yield from self._of(models, recipe, dataset, size, stale, tally)
        base, expert = yield from self._ends(models, dataset, size, stale, tally)
        is_small = models.data[dataset].keys[QUICK] == models.data[dataset].keys[FULL]
        return LossOnAxis(loss, base, expert, quick=size == QUICK and not is_small)


def _expert(models: Models, dataset: str) -> Recipe | None:
    """Returns the recipe of the vector named like the dataset at ω = 1, or None."""
    return models.recipe({dataset: 1.0}) if dataset in models.vectors else None


def _result(steps: Generator[None, None, T]) -> T:
    """Returns the result of a generator after taking all of its steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
