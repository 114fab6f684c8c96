"""Is the process that wrote a running.json still alive?"""

from __future__ import annotations

import json
import os
from pathlib import Path

RUNNING = "running.json"
"""In the folder of a training run: the number of the process that trains there, and when that process began."""


def running(out: Path) -> int | None:
    """The number of the process that trains in a folder now; None if none does."""
    import psutil

    try:
        pid, begun = json.loads((out / RUNNING).read_text("utf-8"))
        # Numbers of processes are used again; the time of the start tells two of them apart.
        return int(pid) if abs(psutil.Process(pid).create_time() - begun) < 1 else None
    except (OSError, ValueError, psutil.Error):  # no file, or the process was killed
        return None


def this_process() -> tuple[int, float]:
    """Number and start of this process, as running.json holds them."""
    import psutil

    return os.getpid(), psutil.Process().create_time()
