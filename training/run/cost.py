"""What a training cost: wall time, device time, data, peak memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from plumbing.meter import device_clock, device_name, high_water


@dataclass(frozen=True)
class Spent:
    """What one phase cost. Work that was lost in a break, since the last saved state, is not in it.

    Attributes:
        phase: what was done, for example "training".
        wall_seconds: time on the clock, from reading the base to the written checkpoint.
        device_seconds: of all processes together: on an accelerator the time between two events on its stream, else the
            CPU time of all their threads.
        examples: examples that were trained on, each as often as it came.
        tokens: their tokens, prompt and template included, without padding.
        supervised: those of them that the loss counts.
        peak_bytes: most memory that one process held: what torch allocated on an accelerator, else resident memory.
        device: "cpu", or the accelerator's name.
        processes: how many worked together.
    """

    phase: str
    wall_seconds: float = 0.0
    device_seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    supervised: int = 0
    peak_bytes: int = 0
    device: str = "cpu"
    processes: int = 1

    def __add__(self, other: Spent) -> Spent:
        """Two parts of one phase: sums, and the higher peak; device and processes are those of the later part."""
        return replace(
            other,
            phase=self.phase,
            wall_seconds=self.wall_seconds + other.wall_seconds,
            device_seconds=self.device_seconds + other.device_seconds,
            examples=self.examples + other.examples,
            tokens=self.tokens + other.tokens,
            supervised=self.supervised + other.supervised,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )


class StageMeter:
    """What a phase has cost so far; may be read while it runs."""

    def __init__(self, phase: str, device: str = "cpu", processes: int = 1) -> None:
        self.examples = self.tokens = self.supervised = 0
        self._facts = Spent(phase, device=device_name(device), processes=processes)
        self._wall, self._clock = time.perf_counter(), device_clock(device)
        self._water = high_water(device)
        self._phase = self._water.begin()

    def read(self) -> Spent:
        """The cost since the start."""
        return replace(
            self._facts,
            wall_seconds=time.perf_counter() - self._wall,
            device_seconds=self._clock(),
            examples=self.examples,
            tokens=self.tokens,
            supervised=self.supervised,
            peak_bytes=self._water.so_far(self._phase),
        )


@contextmanager
def measured(phase: str, device: str = "cpu", processes: int = 1) -> Iterator[StageMeter]:
    """A meter that starts here; its counts are added by hand, and `read` gives the cost at any time.

    >>> with measured("training") as meter: meter.tokens += 512
    """
    yield StageMeter(phase, device, processes)
