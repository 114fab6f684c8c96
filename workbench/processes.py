"""Processes: what asks one to end, `dem` in another one, and whether the writer of a file lives."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

RUNNING = "running.json"
"""File in the folder of a training run or a search: [pid, start time] of its process."""

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages, for a child's PYTHONPATH."""


def ending_signals() -> tuple[int, ...]:
    """Returns the signals, beside Ctrl-C, after which a command cleans up and ends.

    They are SIGTERM and, where the system has it, SIGHUP: the terminal has gone. One that is
    ignored, as SIGHUP is under nohup, is left out.
    """
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return tuple(each for each in numbers if signal.getsignal(each) is not signal.SIG_IGN)


def dem(*words: str) -> tuple[list[str], dict[str, str]]:
    """Returns the command line and the environment that run `dem` with some words in a child.

    The child runs this very program, also from a checkout that is not installed. Warnings of
    libraries are ignored: the last lines of its output are shown, and an error must be among them.
    """
    # A list and no shell, so that no name can become a command.
    line = [sys.executable, "-W", "ignore", "-m", "workbench.cli", *words]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return line, os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


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
