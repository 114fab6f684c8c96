"""Measures the cost of a training: wall time, device time, data and peak memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from plumbing.meter import device_clock, device_name, high_water


@dataclass(frozen=True)
class Spent:
    """The cost of one phase. Work that an interruption lost is not included.

    Lost work is what was done after the last saved state.

    Attributes:
        phase: name of the phase, for example "training".
        wall_seconds: elapsed time, from reading the base to the written checkpoint.
        device_seconds: device time of all processes together. On an accelerator it is the time
            between two events on its stream, otherwise the CPU time of all threads.
        examples: number of examples that were trained on, each as often as it came.
        tokens: number of their tokens, prompt and template included, without padding.
        supervised: number of these tokens that the loss counts.
        peak_bytes: largest memory of one process, in bytes: on an accelerator what torch
            allocated, otherwise resident memory.
        device: "cpu", or the name of the accelerator.
        processes: number of processes that worked together.
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
        """Adds two parts of one phase.

        Times and counts are summed, and the higher peak is taken. Device and processes are those
        of the later part, `other`.
        """
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
    """A meter of the cost of a phase, which can be read while the phase runs.

    Attributes:
        examples: number of examples so far; the caller adds them.
        tokens: number of tokens so far; the caller adds them.
        supervised: number of supervised tokens so far; the caller adds them.
    """

    def __init__(self, phase: str, device: str = "cpu", processes: int = 1) -> None:
        self.examples = self.tokens = self.supervised = 0
        self._facts = Spent(phase, device=device_name(device), processes=processes)
        self._wall, self._clock = time.perf_counter(), device_clock(device)
        # The peak of this phase: the process may have held more memory before it.
        self._water = high_water(device)
        self._phase = self._water.begin()

    def read(self) -> Spent:
        """Returns the cost since the start."""
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
    """Yields a meter of the cost of a `with` block.

    Args:
        phase: name of the phase.
        device: "cpu", or an accelerator such as "cuda:0".
        processes: number of processes that work together.

    >>> with measured("training") as meter: meter.tokens += 512
    """
    yield StageMeter(phase, device, processes)
