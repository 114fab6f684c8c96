"""Losses: the losses of compositions, read from the cache or measured on the live module."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.session.keys import parts_text
from workbench.session.loss_cache import Entry, LossCache
from workbench.session.loss_on_axis import FULL, QUICK, LossOnAxis
from workbench.session.models import Models
from workbench.session.spending import LossLedger, Tally
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from evaluation.loss import Loss, Sweep
    from merging.recipe import Recipe

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
        # A file of an older version has losses of compositions that it does not describe.
        self._described: set[str] = set()
        self._sweeps: set[object] = set()

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
        work, points, shown = _Work(models, stale, tally), dict(points), time.monotonic()
        known = {name: self._known(models, recipe, name) for name in models.data}
        points |= {name: point for name, point in known.items() if point}
        missing = [name for name in models.data if not known[name]]
        here, base, best = dict[str, Entry](), dict[str, Entry](), dict[str, Entry]()
        experts = {name: expert for name in missing if (expert := _expert(models, name))}

        def complete() -> dict[str, LossOnAxis]:
            return {
                name: LossOnAxis(
                    here[name], base[name], best.get(name), _actual(models, name, size) == QUICK
                )
                for name in missing
                if name in here and name in base and (name in best or name not in experts)
            }

        # One recipe after another, because each change of the recipe is a composition.
        waves = [(recipe, missing, here), (models.recipe({}), missing, base)]
        waves += [(expert, [name], best) for name, expert in experts.items()]
        count = 0
        for asked, names, found in waves:
            for _ in self._of(work, asked, names, size, found):
                new = complete()
                # The quick bars of a small model move together, not one by one.
                if len(new) > count and (size == FULL or time.monotonic() - shown > 0.5):
                    count, shown = len(new), time.monotonic()
                    yield points | new
                else:
                    yield None
        yield points | complete()

    def alone(
        self, models: Models, recipe: Recipe, size: str, stale: Stale, tally: Tally
    ) -> Iterator[None]:
        """Measures the losses of a recipe in steps, without the ends of the axes; see `steps`."""
        yield from self._of(_Work(models, stale, tally), recipe, list(models.data), size, {})

    def knows_ends(self, models: Models, size: str) -> bool:
        """Returns whether both ends of every dataset's axis were measured before."""
        return all(self.known_ends(models, name, size) for name in models.data)

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

        ends = {name: self.known_ends(models, name, QUICK) for name in models.data}
        known = {name: both for name, both in ends.items() if both}
        sweep = _sweep_over(models, list(known), QUICK)
        try:
            with (
                self._lock,
                self._spending.preview() as meter,
                models.composer.mounted(settled, recipe, stale) as module,
            ):
                losses = []
                while not sweep.done:
                    losses += sweep.step(module, stale)
                meter.count(
                    sum(loss.n for loss in losses),
                    sweep.positions,
                    sum(loss.tokens for loss in losses),
                )
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
        found: dict[str, Entry] = {}
        with self._spending.tally() as tally:
            for _ in self._of(_Work(models, stale, tally), recipe, list(models.data), size, found):
                pass
        return {name: found[name] for name in models.data}

    def _of(
        self,
        work: _Work,
        recipe: Recipe,
        datasets: Sequence[str],
        size: str,
        found: dict[str, Entry],
    ) -> Iterator[None]:
        """Adds the losses of a recipe on some datasets to `found`, each as soon as it is known.

        Those that are not in the cache are measured in steps; it yields after each.
        """
        models, identity = work.models, work.models.identity(recipe)
        missing: dict[str, list[str]] = {}
        for name in datasets:
            # The same examples may be open under another name, so the cached name is replaced.
            if cached := self._book.get(identity, models.data[name].keys[size]):
                found[name] = cached._replace(dataset=name)
            else:
                missing.setdefault(_actual(models, name, size), []).append(name)
        self.describe(models, recipe)
        for actual, names in missing.items():
            for losses in self._sweep(work, recipe, names, actual):
                for loss in losses:
                    key = models.data[loss.dataset].keys[size]
                    found[loss.dataset] = self._book.put(identity, key, loss)
                yield

    @property
    def busy(self) -> bool:
        """Whether somebody waits for losses that are being measured."""
        return bool(self._sweeps)

    def describe(self, models: Models, recipe: Recipe) -> None:
        """Stores what a composition is made of, once; see LossCache.describe."""
        identity = models.identity(recipe)
        if identity not in self._described and (parts := parts_text(recipe, models.identities)):
            self._book.describe(identity, models.base.identity, parts)
            self._described.add(identity)

    def _sweep(
        self, work: _Work, recipe: Recipe, datasets: Sequence[str], size: str
    ) -> Iterator[list[Loss]]:
        """Measures the losses of a recipe on some datasets, and what they cost.

        Yields:
            After each step the losses of the datasets that it finished, in their order.
        """
        models, stale = work.models, work.stale
        sweep, counted, mark = _sweep_over(models, datasets, size), 0, object()
        self._sweeps.add(mark)
        try:
            with work.tally.sweep(recipe, size) as running:
                while not sweep.done:
                    known: list[Loss] = []
                    # The lock comes first: time spent waiting for others is no cost of this page.
                    with self._lock, running() as meter:
                        begin = time.monotonic()
                        module = models.composer.compose(recipe, stale)
                        while not sweep.done and time.monotonic() - begin < SLICE:
                            known += sweep.step(module, stale)
                    for loss in known:
                        meter.count(loss.n, sweep.positions - counted, loss.tokens)
                        counted = sweep.positions
                    yield known
        finally:
            self._sweeps.discard(mark)

    def ends(
        self, models: Models, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, tuple[Entry, Entry | None]]:
        """Returns the two ends of each dataset's axis, by name.

        They are the loss of the base and the loss of the vector named like the dataset at ω = 1,
        which is None if no vector has this name.
        """
        base, best = dict[str, Entry](), dict[str, Entry]()
        with self._spending.tally() as tally:
            work = _Work(models, stale, tally)
            for _ in self._of(work, models.recipe({}), list(models.data), size, base):
                pass
            for name in models.data:
                if expert := _expert(models, name):
                    for _ in self._of(work, expert, [name], size, best):
                        pass
        return {name: (base[name], best.get(name)) for name in models.data}

    def _known(self, models: Models, recipe: Recipe, dataset: str) -> LossOnAxis | None:
        """Returns the full loss and its ends if all were measured before, else None."""
        loss = self._book.get(models.identity(recipe), models.data[dataset].keys[FULL])
        ends = self.known_ends(models, dataset, FULL)
        return LossOnAxis(loss, *ends, quick=False) if loss and ends else None

    def known_ends(
        self, models: Models, dataset: str, size: str
    ) -> tuple[Entry, Entry | None] | None:
        """Returns the ends of a dataset's axis if they were measured before, else None."""
        key, expert = models.data[dataset].keys[size], _expert(models, dataset)
        base = self._book.get(models.identity(models.recipe({})), key)
        best = self._book.get(models.identity(expert), key) if expert else None
        return None if base is None or (expert and best is None) else (base, best)


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
