"""Measures what a piece of work costs: wall time, device time, and peak memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evaluation.records.ledger import Kind, Ledger, Phase
from plumbing.meter import device_clock, device_name, high_water


class Meter:
    """Adds up the time and memory of all blocks under `running()`; `count()` adds examples.

    Device time on an accelerator is the time between two events on its current stream. On the CPU
    it is the CPU time of all threads of this process, so it includes what another thread does
    meanwhile.

    Args:
        device: torch's name of the device that does the work.

    Attributes:
        wall_seconds, device_seconds: sums over all blocks.
        peak_bytes: the highest memory in any block; None before the first.
        examples, tokens, supervised: as counted; tokens are None if nobody counted them.
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
        """Adds the time and memory of the block to this meter, also if the block raises."""
        mark = high_water(self.device)
        token = mark.begin()
        begin, stop = time.perf_counter(), device_clock(self.device)
        try:
            yield
        finally:
            # Also if the block raised: what it spent before was paid for.
            # The device's clock waits until the device is done, so it is read before the wall time.
            self.device_seconds += stop()
            self.wall_seconds += time.perf_counter() - begin
            self.peak_bytes = max(self.peak_bytes or 0, mark.end(token))

    def count(
        self, examples: int, tokens: int | None = None, supervised: int | None = None
    ) -> None:
        """Adds examples, and the number of tokens and of supervised tokens if they are known."""
        self.examples += examples
        # None and 0 differ: None says that nobody counted.
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if supervised is not None:
            self.supervised = (self.supervised or 0) + supervised

    def phase(self, kind: Kind, name: str, **more: Any) -> Phase:
        """Returns the cost so far as a row of the ledger.

        Args:
            kind, name: as in Phase.
            more: further fields of Phase.
        """
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
    """Writes the cost of the block to a ledger. If the block raises, the row is not complete.

    Args:
        ledger: where the row is written; None to measure only.
        kind, name: as in Phase.
        device: torch's name of the device that does the work.
        more: further fields of Phase.

    Yields:
        The meter, to count examples with.
    """
    meter, complete = Meter(device), False
    try:
        with meter.running():
            yield meter
        complete = True
    finally:
        if ledger is not None:
            ledger.add_all([meter.phase(kind, name, complete=complete, **more)])
