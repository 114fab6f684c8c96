"""What a session's measurements spend, for the ledger: one row per composition and kind, written when a verb ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench.session.keys import weights_key
from workbench.session.sizes import FULL

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger, Phase
    from evaluation.records.meter import Meter
    from merging.recipe import Recipe

QUICK_LOSSES, PREVIEWS, COMPOSING = "quick losses", "previews", "composing"
"""Names of phases, beside evaluation.records.prices.LOSSES: of a few examples; while a slider moves; without measuring."""


class Tally:
    """The meters of one verb: one for each composition and kind of measurement.

    Args:
        device: what works, as torch names it.
    """

    def __init__(self, device: str):
        self._device = device
        self._meters: dict[tuple[str, str], Meter] = {}
        self._broken: set[tuple[str, str]] = set()

    @contextmanager
    def on(self, recipe: Recipe, size: str) -> Iterator[Meter]:
        """The meter of a composition's losses of some size runs in the block; one that raises makes it incomplete."""
        from evaluation.records.meter import Meter
        from evaluation.records.prices import LOSSES

        place = (LOSSES if size == FULL else QUICK_LOSSES, weights_key(recipe))
        meter = self._meters.setdefault(place, Meter(self._device))
        try:
            with meter.running():
                yield meter
        except BaseException:
            self._broken.add(place)
            raise

    def phases(self) -> list[Phase]:
        """The rows. Where no example was measured, because all were known or a newer wish came, it was composing only."""
        return [
            meter.phase(
                "evaluation", name, digest=digest, complete=(name, digest) not in self._broken
            )
            if meter.examples
            else meter.phase(
                "merging", COMPOSING, digest=digest, complete=(name, digest) not in self._broken
            )
            for (name, digest), meter in self._meters.items()
        ]


class LossLedger:
    """Writes what measurements spend. May be used from any thread.

    Args:
        ledger: where to.
        device: what works, as torch names it.
    """

    def __init__(self, ledger: Ledger, device: str):
        self._ledger, self._device = ledger, device
        self._lock = threading.Lock()
        self._previews: Meter | None = None
        self._previewed = 0

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """The meters of one verb; what they measured is written when the block ends, also where it raises."""
        tally = Tally(self._device)
        try:
            yield tally
        finally:
            self._write(tally.phases())

    @contextmanager
    def preview(self) -> Iterator[Meter]:
        """A preview; the caller holds the lock of the live module. All previews of a move become one row, at its end.

        A row for each would be written to the disk many times a second, in the way of the move.
        """
        from evaluation.records.meter import Meter

        with self._lock:
            meter = self._previews = self._previews or Meter(self._device)
            self._previewed += 1
        with meter.running():
            yield meter

    def flush(self) -> None:
        """Write the previews that no measurement followed."""
        self._write([])

    def _write(self, phases: list[Phase]) -> None:
        with self._lock:
            if self._previews is not None:
                phases = [
                    *phases,
                    self._previews.phase("evaluation", PREVIEWS, settings=self._previewed),
                ]
            self._previews, self._previewed = None, 0
        if phases:
            self._ledger.add_all(phases)
