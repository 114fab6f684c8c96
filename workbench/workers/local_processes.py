"""Workers that are processes of this machine; with CUDA each uses a device of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from workbench.workers.executor import OpenBench, Seat
from workbench.workers.serve import serve
from workbench.workers.shared_folder import SharedFolder, shared_threads


class _Child(NamedTuple):
    process: BaseProcess
    log: Path


class LocalProcesses(SharedFolder):
    """Some processes on this machine, which share its threads.

    Args:
        root, count, open_bench: see SharedFolder.
    """

    def __init__(self, root: Path, count: int, open_bench: OpenBench) -> None:
        super().__init__(root, count, open_bench, shared_threads(count))
        # Not forked: a copy of a process with threads of torch, or with CUDA, may hang.
        self._context = multiprocessing.get_context("spawn")

    def _start(self, name: str, seat: Seat) -> _Child:
        log = self.folder / f"{name}.log"
        args = (self.folder, name, seat, self._open_bench, log, os.getpid())
        # A daemon is ended with us; one of a process that is killed notices that by itself.
        process = self._context.Process(target=_work, args=args, daemon=True)
        process.start()
        return _Child(process, log)

    def _end_of(self, handle: _Child) -> str:
        code = handle.process.exitcode
        if code is None:
            return ""
        said = handle.log.read_text("utf-8", "replace").split("\n") if handle.log.exists() else []
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        # A negative exit code is the number of the signal that killed the process.
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"A worker {how}. {last}".strip()

    def _end(self, handle: _Child) -> None:
        handle.process.kill()
        handle.process.join()
        handle.process.close()


def _work(
    folder: Path, name: str, seat: Seat, open_bench: OpenBench, log: Path, parent: int
) -> None:
    """Serves in a child process. What it prints goes to its log, and not between our lines."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    serve(folder, name, seat, open_bench, alive=lambda: os.getppid() == parent)
    # All files are closed. Python would take its modules apart first, which took 7 s on a busy CPU.
    os._exit(0)
