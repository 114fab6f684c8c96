"""What a question about data will cost: a line for each part, from what was timed here."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PartOutlook:
    """The cost of one part of the work.

    Attributes:
        name: what is done.
        examples: passes of examples through the model; None if it is not about examples.
        tokens: tokens of those passes; None if they are not counted.
        seconds: estimated; 0 if it is done, None if it is not known.
        disk: bytes that it writes.
        done: whether an earlier run has done it.
    """

    name: str
    examples: int | None
    tokens: int | None
    seconds: float | None
    disk: int = 0
    done: bool = False


@dataclass(frozen=True)
class DataOutlook:
    """The cost of a question, part by part.

    Attributes:
        parts: in their order.
        based_on: sentences without a full stop: what the seconds are taken from.
    """

    parts: tuple[PartOutlook, ...]
    based_on: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of all parts; None if that of a part is not known."""
        known = [part.seconds for part in self.parts]
        return None if None in known else sum(each for each in known if each is not None)

    @property
    def disk(self) -> int:
        """Bytes that are still to be written."""
        return sum(part.disk for part in self.parts if not part.done)


def timed(work: Callable[[], object]) -> float:
    """Returns the seconds that some work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@functools.cache
def start_seconds() -> float:
    """Returns the seconds that a new process needs for its imports; measured once.

    On small models they are a large part of the whole. It is the time of the processor: kept for
    later estimates, it must not depend on what else the machine did at the first one.
    """
    # A list of constants and no shell; torch and transformers are what takes the time.
    line = [sys.executable, "-W", "ignore", "-c", "import torch, transformers, peft"]
    with subprocess.Popen(line) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime
