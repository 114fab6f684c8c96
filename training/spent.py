"""What a training cost: wall time, device time, data, peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path


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


class Meter:
    """What a phase has cost so far; may be read while it runs."""

    def __init__(self, phase: str, device: str = "cpu", processes: int = 1) -> None:
        self.examples = self.tokens = self.supervised = 0
        self._facts = Spent(phase, device=device_name(device), processes=processes)
        self._wall, self._clock = time.perf_counter(), _device_clock(device)
        self._peak = _peak(device)

    def read(self) -> Spent:
        """The cost since the start."""
        return replace(
            self._facts,
            wall_seconds=time.perf_counter() - self._wall,
            device_seconds=self._clock(),
            examples=self.examples,
            tokens=self.tokens,
            supervised=self.supervised,
            peak_bytes=self._peak(),
        )


@contextmanager
def measured(phase: str, device: str = "cpu", processes: int = 1) -> Iterator[Meter]:
    """A meter that starts here; its counts are added by hand, and `read` gives the cost at any time.

    >>> with measured("training") as meter: meter.tokens += 512
    """
    yield Meter(phase, device, processes)


def device_name(device: str) -> str:
    """What a reader knows a device by: "cpu", or for example "NVIDIA H200"."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def _device_clock(device: str) -> Callable[[], float]:
    """Starts now; gives the seconds since, whenever it is asked."""
    if not device.startswith("cuda"):
        begin = time.process_time()
        return lambda: time.process_time() - begin
    import torch

    stream = torch.cuda.current_stream(torch.device(device))
    first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    first.record(stream)

    def seconds() -> float:
        last = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        last.record(stream)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    return seconds


def _peak(device: str) -> Callable[[], int]:
    """Starts now; gives the most bytes since, whenever it is asked."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(torch.device(device))
        return lambda: int(torch.cuda.max_memory_allocated(torch.device(device)))
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets VmHWM back to what is resident now
    except OSError:  # not Linux, or not allowed: the peak is that of the whole process
        return _peak_of_process
    return _high_water


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return found[0] if found else _peak_of_process()


def _peak_of_process() -> int:
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
