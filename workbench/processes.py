"""Tells whether the process that wrote a running.json is still alive."""

from __future__ import annotations

import json
import os
from pathlib import Path

RUNNING = "running.json"
"""File in the folder of a training run or a search: [pid, start time] of its process."""


def running_process(out: Path) -> int | None:
    """Returns the pid of the process that works in a folder now, or None if there is none."""
    import psutil

    try:
        pid, started = json.loads((out / RUNNING).read_text("utf-8"))
        process = psutil.Process(pid)
        # The system reuses pids; the start time, in seconds since the epoch, tells them apart. One
        # that has ended is a zombie until its parent asks for it.
        lives = process.status() != psutil.STATUS_ZOMBIE
        return int(pid) if lives and abs(process.create_time() - started) < 1 else None
    except (OSError, ValueError, psutil.Error):  # no file, or the process was killed
        return None


def this_process() -> tuple[int, float]:
    """Returns the pid and start time of this process, the two values of running.json."""
    import psutil

    return os.getpid(), psutil.Process().create_time()
