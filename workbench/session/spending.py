"""Writes the cost of a session's measurements to the ledger.

One measurement (a call of Losses) gives one row per composition and kind, written when it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from workbench.session.keys import weights_key
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger, Phase
    from evaluation.records.meter import Meter
    from merging.recipe import Recipe

QUICK_LOSSES, PREVIEWS, COMPOSING = "quick losses", "previews", "composing"
"""Names of phases, beside evaluation.records.prices.LOSSES: losses of a few examples, losses while
a slider moves, and composing with no loss measured."""


class Tally:
    """The meters of one measurement: one for each composition.

    Losses of a few examples are a part of those of all. So a composition whose few examples are
    followed by the others has one row, with all of them.

    Args:
        device: torch device that computes.
    """

    def __init__(self, device: str):
        self._device = device
        # By keys.weights_key of the composition.
        self._meters: dict[str, Meter] = {}
        self._whole: set[str] = set()
        self._broken: set[str] = set()

    @contextmanager
    def on(self, recipe: Recipe, size: str) -> Iterator[Meter]:
        """Runs the meter of a composition's losses while the block lasts; see `sweep`.

        Args:
            recipe: the composition.
            size: QUICK or FULL.
        """
        with self.sweep(recipe, size) as running, running() as meter:
            yield meter

    @contextmanager
    def sweep(
        self, recipe: Recipe, size: str
    ) -> Iterator[Callable[[], AbstractContextManager[Meter]]]:
        """Gives a function that runs the meter of a composition's losses for a part of the block.

        A block that raises, or a generator that is closed in it, makes the row incomplete.

        Args:
            recipe: the composition.
            size: QUICK or FULL.
        """
        from evaluation.records.meter import Meter

        key = weights_key(recipe)
        meter = self._meters.setdefault(key, Meter(self._device))
        if size == FULL:
            self._whole.add(key)

        @contextmanager
        def running() -> Iterator[Meter]:
            with meter.running():
                yield meter

        try:
            yield running
        # Whoever ended it (an error, a newer request, Ctrl-C), an unfinished sweep is no price.
        except BaseException:
            self._broken.add(key)
            raise

    def phases(self) -> list[Phase]:
        """Returns one phase per meter."""
        from evaluation.records.prices import LOSSES

        phases = []
        for digest, meter in self._meters.items():
            more = {"digest": digest, "complete": digest not in self._broken}
            # Without an example it was composing only: a newer request came.
            if not meter.examples:
                phases.append(meter.phase("merging", COMPOSING, **more))
                continue
            # Quick losses have another name, because the table of costs counts whole sweeps only.
            name = LOSSES if digest in self._whole else QUICK_LOSSES
            phases.append(meter.phase("evaluation", name, **more))
        return phases


class LossLedger:
    """Writes what measurements cost to the ledger. May be used from any thread.

    Args:
        ledger: the ledger.
        device: torch device that computes.
    """

    def __init__(self, ledger: Ledger, device: str):
        self._ledger, self._device = ledger, device
        self._lock = threading.Lock()
        self._previews: Meter | None = None
        self._previewed = 0

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """Gives the meters of one measurement; writes their phases when the block ends or fails."""
        tally = Tally(self._device)
        try:
            yield tally
        # Also after an error: the time was spent.
        finally:
            self._write(tally.phases())

    @contextmanager
    def preview(self) -> Iterator[Meter]:
        """Runs the meter of the previews while the block lasts.

        The caller holds the lock of the live module. All previews of a move become one row at its
        end: a row for each would be written to disk many times a second and slow the move down.
        """
        from evaluation.records.meter import Meter

        with self._lock:
            meter = self._previews = self._previews or Meter(self._device)
            self._previewed += 1
        with meter.running():
            yield meter

    def flush(self) -> None:
        """Writes the row of previews that no measurement followed."""
        self._write([])

    def _write(self, phases: list[Phase]) -> None:
        # Taken out under the lock, so that two measurements that end at once write them only once.
        with self._lock:
            if self._previews is not None:
                phases = [
                    *phases,
                    self._previews.phase("evaluation", PREVIEWS, settings=self._previewed),
                ]
            self._previews, self._previewed = None, 0
        # After the lock: a write waits for the disk, and a preview must not wait for a write.
        if phases:
            self._ledger.add_all(phases)
