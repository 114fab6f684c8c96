"""Clocks and peak memory of a device, as evaluation and training both measure them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def device_name(device: str) -> str:
    """A device's name for a reader: "cpu", or the accelerator's, such as "NVIDIA H200".

    Args:
        device: as torch names it.
    """
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def device_clock(device: str) -> Callable[[], float]:
    """Starts a clock of the device's work; each call of the result returns the seconds since the start.

    On an accelerator these are the seconds between two events on its current stream, elsewhere the CPU seconds of all
    threads of this process.

    Args:
        device: as torch names it.
    """
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


class HighWater:
    """Peak memory of phases that may overlap, although the system keeps only one mark for all of them.

    Args:
        read: returns the system's mark, in bytes.
        reset: sets the system's mark to what is held now.
    """

    def __init__(self, read: Callable[[], int], reset: Callable[[], None]) -> None:
        self._read, self._reset = read, reset
        self._lock = threading.Lock()
        self._open: dict[object, int] = {}

    def begin(self) -> object:
        """Begin a phase; returns the token that names it."""
        token = object()
        with self._lock:
            self._note()
            self._reset()
            self._open[token] = 0
        return token

    def so_far(self, token: object) -> int:
        """The peak since the phase began, in bytes; the phase goes on."""
        with self._lock:
            self._note()
            return self._open[token]

    def end(self, token: object) -> int:
        """The peak since the phase began, in bytes; the phase is over."""
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
    """The peak memory of a device; one object for the whole process, because the system has only one mark to reset.

    Args:
        device: as torch names it.
    """
    if not device.startswith("cuda"):
        return HighWater(_resident_mark, _reset_resident_mark)
    import torch

    return HighWater(
        lambda: int(torch.cuda.max_memory_allocated(device)),
        lambda: torch.cuda.reset_peak_memory_stats(device),
    )


def _resident_mark() -> int:
    """Peak resident bytes of this process: since the last reset if the system can reset it, else since its start."""
    if STATUS.exists():
        for line in STATUS.read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def _reset_resident_mark() -> None:
    if CLEAR.exists():
        try:
            CLEAR.write_text(
                "5", "ascii"
            )  # proc(5): sets VmHWM to what is resident now, and does nothing else
        except (
            OSError
        ):  # some containers write-protect /proc: the peak is then of the process's whole life
            return
