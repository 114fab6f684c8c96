"""Measuring what a piece of work spends: wall time, device time, peak memory."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.cost import Kind, Ledger, Phase


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
        begin, stop = time.perf_counter(), _device_clock(self.device)
        try:
            yield
        finally:
            self.device_seconds += stop()
            self.wall_seconds += time.perf_counter() - begin
            self.peak_bytes = max(self.peak_bytes or 0, mark.end(token))

    def count(self, examples: int, tokens: int | None = None, supervised: int | None = None) -> None:
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
def measured(ledger: Ledger | None, kind: Kind, name: str, *, device: str = "cpu", **more: Any) -> Iterator[Meter]:
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


def device_name(device: str) -> str:
    """What a reader knows a device by: "cpu", or the accelerator's name, such as "NVIDIA H200"."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def _device_clock(device: str) -> Callable[[], float]:
    """Starts now; what it returns gives the seconds since, when asked."""
    if not device.startswith("cuda"):
        begin = time.process_time()
        return lambda: time.process_time() - begin
    import torch

    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    stream = torch.cuda.current_stream(torch.device(device))
    first.record(stream)

    def seconds() -> float:
        last.record(stream)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    return seconds


class HighWater:
    """The highest memory since a moment, for phases that overlap: the system keeps one mark for all of them.

    Args:
        read: the mark, in bytes.
        reset: sets the mark to what is held now.
    """

    def __init__(self, read: Callable[[], int], reset: Callable[[], None]) -> None:
        self._read, self._reset = read, reset
        self._lock = threading.Lock()
        self._open: dict[object, int] = {}

    def begin(self) -> object:
        """A phase begins; what it gets here names it at its end."""
        token = object()
        with self._lock:
            self._note()
            self._reset()
            self._open[token] = 0
        return token

    def end(self, token: object) -> int:
        """The highest mark since a phase began, in bytes."""
        with self._lock:
            self._note()
            return self._open.pop(token)

    def _note(self) -> None:
        """Every phase that is open began before the mark was last reset, so that the mark is of all of them."""
        mark = self._read()
        for token, highest in self._open.items():
            self._open[token] = max(highest, mark)


@cache
def high_water(device: str) -> HighWater:
    """The mark of a device: one for the whole process, because the system has only one to reset."""
    if not device.startswith("cuda"):
        return HighWater(_resident_mark, _reset_resident_mark)
    import torch

    return HighWater(
        lambda: int(torch.cuda.max_memory_allocated(device)), lambda: torch.cuda.reset_peak_memory_stats(device)
    )


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _resident_mark() -> int:
    """Highest resident bytes of this process, since the last reset where the system can reset, else since its start."""
    if STATUS.exists():
        for line in STATUS.read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def _reset_resident_mark() -> None:
    if CLEAR.exists():
        try:
            CLEAR.write_text("5", "ascii")  # proc(5): sets VmHWM to what is resident now, and does nothing else
        except OSError:  # some containers write-protect /proc: the mark is then of the process's whole life, and higher
            return
