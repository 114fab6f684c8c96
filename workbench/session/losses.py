"""Losses: the losses of compositions, read from the cache or measured on the live module.

Each composition is composed once, and all datasets are measured while it stands. The losses of the
first few examples are a part of those of all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluation.records.loss_cache import Entry, LossCache
from workbench.session.keys import parts_text
from workbench.session.loss_on_axis import (
    FULL,
    QUICK,
    KnownLosses,
    LossOnAxis,
    Update,
    Wave,
    expert_of,
    is_quick,
    waves,
)
from workbench.session.models import Models
from workbench.session.spending import LossLedger, Tally
from workbench.session.throughput import Measuring, Throughput
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from evaluation.loss import Loss, Sweep
    from merging.recipe import Recipe

SLICE = 0.02
"""Seconds of a step on the live module; after it, another page's more urgent work may come in."""
SHOWN = 0.5
"""Seconds after which a page is told how far a measurement is, also without a new loss."""


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

    Attributes:
        known: the losses that were measured before.
    """

    def __init__(self, book: LossCache, lock: AbstractContextManager[Any], spending: LossLedger):
        self._book, self._lock, self._spending = book, lock, spending
        self.known = KnownLosses(book)
        # A file of an older version has losses of compositions that it does not describe.
        self._described: set[str] = set()
        self._waiting: set[object] = set()
        # Models.key -> how fast they are; of the models that were measured last.
        self._throughputs: dict[str, Throughput] = {}

    def steps(
        self, models: Models, recipe: Recipe, size: str, stale: Stale, tally: Tally
    ) -> Iterator[Update | None]:
        """Measures the losses of a recipe on every dataset in steps of about SLICE seconds.

        For FULL the ends of the axes are measured too: after the recipe the base, then each expert
        on its own dataset. For QUICK they are read, from the cache. The live module is free between
        two steps. Each step composes the recipe again if somebody else has used it meanwhile.

        Args:
            models: the open models.
            recipe: the composition.
            size: QUICK or FULL.
            stale: asked before each step.
            tally: the meters of this measurement.

        Yields:
            None after a step; an Update at the end. Before, for FULL after each new loss and every
            SHOWN seconds; for QUICK every SHOWN seconds if there is a new loss.

        Raises:
            Stopped: `stale` became true.
        """
        work = _Work(models, stale, tally)
        wanted = waves(models, recipe) if size == FULL else [Wave(recipe, list(models.data))]
        for wave in wanted:
            self.describe(models, wave.recipe)
        missing = [self.known.without(models, wave, size) for wave in wanted]
        missing = [wave for wave in missing if wave.datasets]
        sizes = [self._positions(models, wave, size) for wave in missing]

        def update(number: int, positions: int) -> Update:
            left = sum(sizes[number:]) - positions
            # The first one stands already, or is being composed.
            seconds = self.throughput(models).seconds(len(missing) - number - 1, left)
            # Quick losses are only the first part of a measurement.
            measuring = Measuring(number + 1, len(missing), seconds) if size == FULL else None
            return Update(self.known.points(models, recipe), measuring)

        if missing and size == FULL:
            yield update(0, 0)
        shown, news = time.monotonic(), False
        for number, wave in enumerate(missing):
            for positions, new in self._measure(work, wave, size):
                now, news = time.monotonic(), news or new
                due = now - shown > SHOWN
                # The quick bars of a small model move together, not one by one.
                if (news and due) or (size == FULL and (news or due)):
                    shown, news = now, False
                    yield update(number, positions)
                else:
                    yield None
        yield Update(self.known.points(models, recipe), None)

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

        ends = {name: self.known.ends(models, name, QUICK) for name in models.data}
        known = {name: both for name, both in ends.items() if both}
        sweep = _sweep_over(models, list(known), QUICK, {})
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
        with self._spending.tally() as tally:
            return self._all(_Work(models, stale, tally), recipe, list(models.data), size)

    def ends(
        self, models: Models, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, tuple[Entry, Entry | None]]:
        """Returns the two ends of each dataset's axis, by name.

        They are the loss of the base and the loss of the vector named like the dataset at ω = 1,
        which is None if no vector has this name.
        """
        best = dict[str, Entry]()
        with self._spending.tally() as tally:
            work = _Work(models, stale, tally)
            base = self._all(work, models.recipe({}), list(models.data), size)
            for name in models.data:
                if expert := expert_of(models, name):
                    best |= self._all(work, expert, [name], size)
        return {name: (base[name], best.get(name)) for name in models.data}

    @property
    def busy(self) -> bool:
        """Whether somebody waits for losses that are being measured."""
        return bool(self._waiting)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Says that somebody waits for losses while the block lasts."""
        mark = object()
        self._waiting.add(mark)
        try:
            yield
        finally:
            self._waiting.discard(mark)

    def throughput(self, models: Models) -> Throughput:
        """Returns how fast the models are measured."""
        if models.key not in self._throughputs:
            self._throughputs = {models.key: Throughput()}
        return self._throughputs[models.key]

    def describe(self, models: Models, recipe: Recipe) -> None:
        """Stores what a composition is made of, once; see LossCache.describe."""
        identity = models.identity(recipe)
        if identity not in self._described and (parts := parts_text(recipe, models.identities)):
            self._book.describe(identity, models.base.identity, parts)
            self._described.add(identity)

    def _all(self, work: _Work, recipe: Recipe, datasets: list[str], size: str) -> dict[str, Entry]:
        """Returns the losses of a recipe on some datasets; those not known are measured."""
        for _ in self._measure(work, Wave(recipe, datasets), size):
            pass
        found = {name: self.known.loss(work.models, recipe, name, size) for name in datasets}
        return {name: loss for name, loss in found.items() if loss}

    def _begun(self, models: Models, wave: Wave, size: str) -> dict[str, Loss]:
        """Returns the losses of the few first examples, by dataset, where they are known."""
        from evaluation.loss import Loss

        if size == QUICK:
            return {}
        few = {name: self.known.loss(models, wave.recipe, name, QUICK) for name in wave.datasets}
        return {name: Loss(*loss) for name, loss in few.items() if loss and loss.sums}

    def _positions(self, models: Models, wave: Wave, size: str) -> int:
        """Returns how many token positions have to be computed."""
        whole = sum(models.data[name].prepared[size].positions for name in wave.datasets)
        begun = self._begun(models, wave, size)
        return whole - sum(models.data[name].prepared[QUICK].positions for name in begun)

    def _measure(self, work: _Work, wave: Wave, size: str) -> Iterator[tuple[int, bool]]:
        """Measures the losses that are not known, keeps them, and writes down what they cost.

        Yields:
            After each step the token positions so far, and whether a loss is known now.
        """
        models = work.models
        # Another page may have measured some of them meanwhile.
        recipe, datasets = wave = self.known.without(models, wave, size)
        self.describe(models, recipe)
        if not datasets:
            return
        begun, identity = self._begun(models, wave, size), models.identity(recipe)
        sweep, counted = _sweep_over(models, datasets, size, begun), 0
        throughput = self.throughput(models)
        kind = QUICK if any(is_quick(models, name, size) for name in datasets) else FULL
        with self.awaited(), work.tally.sweep(recipe, kind) as running:
            while not sweep.done:
                found: list[Loss] = []
                # The lock comes first: time spent waiting for others is no cost of this page.
                with self._lock, running() as meter:
                    begin = time.monotonic()
                    module = models.composer.compose(recipe, work.stale)
                    composed, before = time.monotonic(), sweep.positions
                    throughput.composed(composed - begin)
                    while not sweep.done and time.monotonic() - begin < SLICE:
                        found += sweep.step(module, work.stale)
                    throughput.measured(sweep.positions - before, time.monotonic() - composed)
                for loss in found:
                    few = begun.get(loss.dataset)
                    n, tokens = (few.n, few.tokens) if few else (0, 0)
                    meter.count(loss.n - n, sweep.positions - counted, loss.tokens - tokens)
                    counted = sweep.positions
                    self._book.put(identity, models.data[loss.dataset].keys[size], loss)
                yield sweep.positions, bool(found)


def _sweep_over(
    models: Models, datasets: Sequence[str], size: str, begun: Mapping[str, Loss]
) -> Sweep:
    """Prepares to measure losses on some datasets, of which some were begun.

    Raises:
        DataError: the data has tokens that the model does not know.
    """
    from evaluation.loss import Sweep
    from evaluation.prepared import check_vocabulary

    prepared = [models.data[name].prepared[size] for name in datasets]
    for data in prepared:
        check_vocabulary(models.loaded.module, data)
    return Sweep([dataset for data in prepared for dataset in data.datasets], begun)
