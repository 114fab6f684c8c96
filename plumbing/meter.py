"""Measures time and peak memory of a device; evaluation and training share it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Linux's files that hold the peak memory of this process (VmHWM), and that reset it."""


def device_name(device: str) -> str:
    """Returns a device's name as users know it: "cpu", or for example "NVIDIA H200".

    Args:
        device: the device in torch's notation, for example "cuda:0".
    """
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def device_clock(device: str) -> Callable[[], float]:
    """Starts a clock of the device's work; each call of the returned function gives seconds.

    On an accelerator these are the seconds between two events on its current stream. On the CPU
    they are the CPU seconds of all threads of this process.

    Args:
        device: the device in torch's notation.
    """
    if not device.startswith("cuda"):
        begin = time.process_time()
        return lambda: time.process_time() - begin
    import torch

    # Events are timed by the device. The host's clock would only show how long it takes to queue
    # the work.
    stream = torch.cuda.current_stream(torch.device(device))
    first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    first.record(stream)

    def seconds() -> float:
        last = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        last.record(stream)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    return seconds


class HighWater:
    """Measures peak memory of phases that may overlap, from the one mark that the system keeps.

    Args:
        read: returns the system's mark: the peak since the last reset, in bytes.
        reset: sets the mark to the memory that is held now.
    """

    def __init__(self, read: Callable[[], int], reset: Callable[[], None]) -> None:
        self._read, self._reset = read, reset
        self._lock = threading.Lock()
        self._open: dict[object, int] = {}

    def begin(self) -> object:
        """Begins a phase and returns the token that identifies it."""
        token = object()
        with self._lock:
            self._note()
            self._reset()
            self._open[token] = 0
        return token

    def so_far(self, token: object) -> int:
        """Returns the peak since the phase began, in bytes; the phase goes on."""
        with self._lock:
            self._note()
            return self._open[token]

    def end(self, token: object) -> int:
        """Ends a phase and returns its peak, in bytes."""
        with self._lock:
            self._note()
            return self._open.pop(token)

    def _note(self) -> None:
        # Every open phase began before the mark was last reset, so the mark belongs to all of them.
        mark = self._read()
        for token, highest in self._open.items():
            self._open[token] = max(highest, mark)


@cache
def high_water(device: str) -> HighWater:
    """Returns the HighWater of a device.

    It is one object for the whole process, because the system has only one mark to reset.

    Args:
        device: the device in torch's notation.
    """
    if not device.startswith("cuda"):
        return HighWater(_resident_mark, _reset_resident_mark)
    import torch

    return HighWater(
        lambda: int(torch.cuda.max_memory_allocated(device)),
        lambda: torch.cuda.reset_peak_memory_stats(device),
    )


def _resident_mark() -> int:
    """Returns this process's peak resident bytes since the last reset, or since its start.

    Only Linux can reset the mark.
    """
    if STATUS.exists():
        for line in STATUS.read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # ru_maxrss counts bytes on macOS and kilobytes on all other systems.
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def _reset_resident_mark() -> None:
    if CLEAR.exists():
        try:
            # proc(5): 5 sets VmHWM to what is resident now, and does nothing else.
            CLEAR.write_text("5", "ascii")
        # Some containers write-protect /proc. The peak is then that of the process's whole life.
        except OSError:
            return
