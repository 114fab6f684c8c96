"""Measuring what a piece of work spends: wall time, device time, peak memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evaluation.records.ledger import Kind, Ledger, Phase
from plumbing.meter import device_clock, device_name, high_water


class Meter:
    """Adds up what is spent inside `running()`, which may be entered again and again; counts are added by hand.

    On an accelerator device time is the time between two events on its current stream; elsewhere it is the CPU time of
    all threads of this process, so that what another thread does meanwhile is in it too.

    Args:
        device: as torch names it.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.wall_seconds = self.device_seconds = 0.0
        self.peak_bytes: int | None = None
        self.examples = 0
        self.tokens: int | None = None
        self.supervised: int | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time and memory in the block are this meter's; what the block raises goes on after they were read."""
        mark = high_water(self.device)
        token = mark.begin()
        begin, stop = time.perf_counter(), device_clock(self.device)
        try:
            yield
        finally:
            self.device_seconds += stop()
            self.wall_seconds += time.perf_counter() - begin
            self.peak_bytes = max(self.peak_bytes or 0, mark.end(token))

    def count(
        self, examples: int, tokens: int | None = None, supervised: int | None = None
    ) -> None:
        """Add examples, and tokens where they are known."""
        self.examples += examples
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if supervised is not None:
            self.supervised = (self.supervised or 0) + supervised

    def phase(self, kind: Kind, name: str, **more: Any) -> Phase:
        """What was spent so far as a row of the ledger; `more` are fields of Phase."""
        return Phase(
            kind,
            name,
            self.wall_seconds,
            self.device_seconds,
            examples=self.examples,
            tokens=self.tokens,
            supervised=self.supervised,
            peak_bytes=self.peak_bytes,
            device=device_name(self.device),
            **more,
        )


@contextmanager
def measured(
    ledger: Ledger | None, kind: Kind, name: str, *, device: str = "cpu", **more: Any
) -> Iterator[Meter]:
    """Write what the block spends to a ledger, also where the block raises; the row is then not complete.

    Args:
        ledger: where to; None to measure only.
        kind: of the phase, as `name` and `more`, which are fields of Phase.
        name: see there.
        device: what works, as torch names it.
        more: see there.
    """
    meter, complete = Meter(device), False
    try:
        with meter.running():
            yield meter
        complete = True
    finally:
        if ledger is not None:
            ledger.add_all([meter.phase(kind, name, complete=complete, **more)])
