"""Losses: the losses of compositions, read from the cache or measured on the live module."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from workbench.session.loss_cache import Entry, LossCache
from workbench.session.loss_on_axis import FULL, QUICK, LossOnAxis
from workbench.session.models import Models
from workbench.session.spending import LossLedger, Tally
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from evaluation.loss import Loss, Sweep
    from evaluation.records.meter import Meter
    from merging.recipe import Recipe

T = TypeVar("T")
SLICE = 0.02
"""Seconds of a step on the live module; after it, another page's more urgent work may come in."""


class _Work(NamedTuple):
    """What all steps of one measurement share; see Losses.steps."""

    models: Models
    stale: Stale
    tally: Tally


class Losses:
    """Measures losses on the live module and keeps them in the cache.

    Args:
        book: the cache of losses.
        lock: the lock of the live module.
        spending: writes to the ledger what each measurement cost.
    """

    def __init__(self, book: LossCache, lock: AbstractContextManager[Any], spending: LossLedger):
        self._book, self._lock, self._spending = book, lock, spending

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
        from evaluation.loss import side_by_side

        work, points, shown = _Work(models, stale, tally), dict(points), time.monotonic()
        # The quick losses of a small model are measured together: more batches for its threads.
        together = size == QUICK and side_by_side(models.loaded.module) > 1
        names = list(models.data)
        for group in [names] if together else [[name] for name in names]:
            known = {name: self._known(models, recipe, name) for name in group}
            points |= {name: point for name, point in known.items() if point}
            missing = [name for name in group if not known[name]]
            points |= yield from self._points(work, recipe, missing, size)
            # The quick bars of a small model move together, not one by one.
            if size == FULL or time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                yield dict(points)
        yield dict(points)

    def preview(
        self, models: Models, settled: Recipe, recipe: Recipe, stale: Stale
    ) -> dict[str, LossOnAxis] | None:
        """Returns quick losses while a slider moves, without writing a weight.

        The LoRA vectors that moved are mounted on the settled weights; see Composer.mounted. These
        losses equal those of the composition up to rounding only, so they are not cached. The ends
        of the axes are read from the cache. A dataset whose ends are not cached is left out,
        because measuring them would write weights.

        Returns:
            Losses by dataset, or None if the move became stale.

        Raises:
            NotMounted: this move has to be composed; the message says why.
        """
        from evaluation.errors import Stopped

        ends = {name: self._known_ends(models, name, QUICK) for name in models.data}
        known = {name: both for name, both in ends.items() if both}
        sweep = _sweep_over(models, list(known), QUICK)
        try:
            with (
                self._lock,
                self._spending.preview() as meter,
                models.composer.mounted(settled, recipe, stale) as module,
            ):
                while not sweep.done:
                    sweep.step(module, stale)
                losses = sweep.losses()
                _count(meter, sweep, losses)
        except Stopped:
            return None
        points = {
            name: LossOnAxis(Entry(*loss), *both, quick=True)
            for (name, both), loss in zip(known.items(), losses, strict=True)
        }
        return None if stale() else points

    def on_all(
        self, models: Models, recipe: Recipe, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, Entry]:
        """Returns the losses on every dataset, by name; their cost is one row of the ledger.

        Raises:
            Stopped: `stale` became true before the end.
        """
        with self._spending.tally() as tally:
            return _result(self._of(_Work(models, stale, tally), recipe, list(models.data), size))

    def _of(
        self, work: _Work, recipe: Recipe, datasets: Sequence[str], size: str
    ) -> Generator[None, None, dict[str, Entry]]:
        """Measures the losses of a recipe on some datasets, in steps, unless they are known."""
        models, identity = work.models, work.models.identity(recipe)
        found: dict[str, Entry] = {}
        missing: dict[str, list[str]] = {}
        for name in datasets:
            # The same examples may be open under another name, so the cached name is replaced.
            if cached := self._book.get(identity, models.data[name].keys[size]):
                found[name] = cached._replace(dataset=name)
            else:
                missing.setdefault(_actual(models, name, size), []).append(name)
        for actual, names in missing.items():
            losses = yield from self._sweep(work, recipe, names, actual)
            for name, loss in zip(names, losses, strict=True):
                found[name] = self._book.put(identity, models.data[name].keys[size], loss)
        return found

    def _sweep(
        self, work: _Work, recipe: Recipe, datasets: Sequence[str], size: str
    ) -> Generator[None, None, list[Loss]]:
        """Measures the losses of a recipe on some datasets, in steps, and what they cost."""
        models, stale = work.models, work.stale
        sweep = _sweep_over(models, datasets, size)
        with work.tally.sweep(recipe, size) as running:
            while not sweep.done:
                # The lock comes first: time spent waiting for another page is no cost of this one.
                with self._lock, running() as meter:
                    begin = time.monotonic()
                    module = models.composer.compose(recipe, stale)
                    while not sweep.done and time.monotonic() - begin < SLICE:
                        sweep.step(module, stale)
                if not sweep.done:
                    yield
            losses = sweep.losses()
            _count(meter, sweep, losses)
        return losses

    def ends(
        self, models: Models, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, tuple[Entry, Entry | None]]:
        """Returns the two ends of each dataset's axis, by name.

        They are the loss of the base and the loss of the vector named like the dataset at ω = 1,
        which is None if no vector has this name.
        """
        with self._spending.tally() as tally:
            return _result(self._ends(_Work(models, stale, tally), list(models.data), size))

    def _ends(
        self, work: _Work, datasets: Sequence[str], size: str
    ) -> Generator[None, None, dict[str, tuple[Entry, Entry | None]]]:
        base = yield from self._of(work, work.models.recipe({}), datasets, size)
        ends: dict[str, tuple[Entry, Entry | None]] = {}
        for name in datasets:
            expert, best = _expert(work.models, name), None
            if expert:
                best = (yield from self._of(work, expert, [name], size))[name]
            ends[name] = (base[name], best)
        return ends

    def _known(self, models: Models, recipe: Recipe, dataset: str) -> LossOnAxis | None:
        """Returns the full loss and its ends if all were measured before, else None."""
        loss = self._book.get(models.identity(recipe), models.data[dataset].keys[FULL])
        ends = self._known_ends(models, dataset, FULL)
        return LossOnAxis(loss, *ends, quick=False) if loss and ends else None

    def _known_ends(
        self, models: Models, dataset: str, size: str
    ) -> tuple[Entry, Entry | None] | None:
        """Returns the ends of a dataset's axis if they were measured before, else None."""
        key, expert = models.data[dataset].keys[size], _expert(models, dataset)
        base = self._book.get(models.identity(models.recipe({})), key)
        best = self._book.get(models.identity(expert), key) if expert else None
        return None if base is None or (expert and best is None) else (base, best)

    def _points(
        self, work: _Work, recipe: Recipe, datasets: Sequence[str], size: str
    ) -> Generator[None, None, dict[str, LossOnAxis]]:
        losses = yield from self._of(work, recipe, datasets, size)
        ends = yield from self._ends(work, datasets, size)
        return {
            name: LossOnAxis(
                losses[name], *ends[name], quick=_actual(work.models, name, size) == QUICK
            )
            for name in datasets
        }


def _expert(models: Models, dataset: str) -> Recipe | None:
    """Returns the recipe of the vector named like the dataset at ω = 1, or None."""
    return models.recipe({dataset: 1.0}) if dataset in models.vectors else None


def _actual(models: Models, dataset: str, size: str) -> str:
    """Returns FULL for a small dataset, whose few examples are all that it has; else the size."""
    keys = models.data[dataset].keys
    return FULL if keys[size] == keys[FULL] else size


def _sweep_over(models: Models, datasets: Sequence[str], size: str) -> Sweep:
    """Prepares to measure losses on some datasets.

    Raises:
        DataError: the data has tokens that the model does not know.
    """
    from evaluation.loss import Sweep, check_vocabulary

    prepared = [models.data[name].prepared[size] for name in datasets]
    for data in prepared:
        check_vocabulary(models.loaded.module, data)
    return Sweep([dataset for data in prepared for dataset in data.datasets])


def _count(meter: Meter, sweep: Sweep, losses: Sequence[Loss]) -> None:
    """Adds to a meter what a sweep over whole datasets computed."""
    n, tokens = sum(loss.n for loss in losses), sum(loss.tokens for loss in losses)
    meter.count(n, sweep.positions, tokens)


def _result(steps: Generator[None, None, T]) -> T:
    """Returns the result of a generator after taking all of its steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
