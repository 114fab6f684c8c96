"""What executors share whose workers take units out of a folder; see workbench.workers.serve."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from plumbing.atomic import write_whole
from workbench.errors import SessionError
from workbench.processes import RUNNING, running_process
from workbench.workers.executor import Executor, OpenBench, Seat, WorkerLost
from workbench.workers.serve import BEAT, PATIENCE_SECONDS, QUEUE, RESULTS, TAKEN
from workbench.workers.unit import Unit, UnitResult, keep

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from evaluation.records.loss_cache import LossCache

BEAT_SECONDS = 2
FALSE_STARTS = 3
"""So many workers in a row that end before they could begin end the executor."""
LEAVE_SECONDS = 10
"""How long workers may take to notice that the executor is closed, before they are ended."""

_HOST = "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())


class SharedFolder(Executor):
    """Starts workers as units come, and again if one dies.

    Args:
        root: gets a folder of this executor; all workers see it by the same path.
        count: how many workers.
        open_bench: opens what measures, in the worker.
        threads: of torch in each worker; 0 leaves their number as it is.

    Attributes:
        folder: of this executor.
    """

    def __init__(self, root: Path, count: int, open_bench: OpenBench, threads: int = 0) -> None:
        self.width, self._open_bench, self._threads = count, open_bench, threads
        self.folder = Path(root).resolve() / f"{_HOST}-{time.time_ns()}"
        for name in (QUEUE, TAKEN, RESULTS):
            (self.folder / name).mkdir(parents=True)
        mine = [os.getpid(), psutil.Process().create_time()]
        write_whole(self.folder / RUNNING, json.dumps(mine))
        (self.folder / BEAT).touch()
        self._units = self._started = 0
        self._lost: dict[str, str] = {}
        # Seat -> name and handle of the worker that sits there.
        self._workers: dict[int, tuple[str, Any]] = {}
        self._false_starts = 0
        self._closed = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    @abstractmethod
    def _start(self, name: str, seat: Seat) -> Any:
        """Starts a worker and returns its handle.

        Raises:
            SessionError: it cannot be started.
        """

    @abstractmethod
    def _end_of(self, handle: Any) -> str:
        """Returns how a worker ended, with the last it said; "" if it works."""

    @abstractmethod
    def _end(self, handle: Any) -> None:
        """Ends a worker, and waits for it."""

    def submit(self, unit: Unit) -> None:
        """See Executor."""
        self._units += 1
        self._lost.pop(unit.id, None)
        self._result_of(unit).unlink(missing_ok=True)
        # The number keeps the order of submitting among the names.
        write_whole(self.folder / QUEUE / f"{self._units:06d}-{unit.id}.json", unit.to_json())
        self._look()

    def poll(self, unit: Unit) -> bool:
        """See Executor."""
        if self._result_of(unit).exists():
            return True
        self._look()
        # A worker may have renamed its result into place, and ended, in between.
        return unit.id in self._lost or self._result_of(unit).exists()

    def result(self, unit: Unit) -> UnitResult:
        """See Executor."""
        try:
            return UnitResult.from_json(self._result_of(unit).read_text("utf-8"))
        except FileNotFoundError:
            raise WorkerLost(self._lost.get(unit.id, "the unit was not measured.")) from None

    def cancel(self, unit: Unit) -> None:
        """See Executor."""
        self._lost.pop(unit.id, None)
        self._result_of(unit).unlink(missing_ok=True)
        for where in (QUEUE, f"{TAKEN}/*"):
            for file in self.folder.glob(f"{where}/*-{unit.id}.json"):
                file.unlink(missing_ok=True)

    def close(self) -> None:
        """See Executor. The folder is removed."""
        if self._closed.is_set():
            return
        self._closed.set()
        # Without this file every worker leaves at its next step.
        (self.folder / BEAT).unlink(missing_ok=True)
        last = time.monotonic() + LEAVE_SECONDS
        for name, handle in self._workers.values():
            # One that has not begun yet has nothing to put in order.
            began = (self.folder / TAKEN / name).exists()
            while began and not self._end_of(handle) and time.monotonic() < last:
                time.sleep(0.02)
            self._end(handle)
        self._workers.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _result_of(self, unit: Unit) -> Path:
        return self.folder / RESULTS / f"{unit.id}.json"

    def _look(self) -> None:
        """Fills empty seats, after the units of workers that ended are noted as lost.

        Raises:
            SessionError: worker after worker ends before it begins.
        """
        for number in range(self.width):
            if number in self._workers:
                name, handle = self._workers[number]
                if not (end := self._end_of(handle)):
                    continue
                self._clear(name, end)
            self._started += 1
            name = f"{number}-{self._started}"
            scratch = self.folder / f"scratch-{name}"
            scratch.mkdir()
            seat = Seat(number, self._threads, scratch)
            self._workers[number] = name, self._start(name, seat)

    def _clear(self, name: str, end: str) -> None:
        """Notes the unit that a worker which ended has left."""
        taken = self.folder / TAKEN / name
        self._false_starts = 0 if taken.exists() else self._false_starts + 1
        if self._false_starts == FALSE_STARTS:
            raise SessionError(
                f"{FALSE_STARTS} workers ended before they could begin. {end} "
                "Run the same command without workers to see whether it works here."
            )
        for file in taken.glob("*.json"):
            self._lost[file.stem.partition("-")[2]] = end
            file.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            # Closing may remove the file at this moment.
            if (self.folder / BEAT).exists():
                (self.folder / BEAT).touch()


def take_over(root: Path, book: LossCache, ledger: Ledger) -> int:
    """Stores the results that executors have left which were killed, and removes their folders.

    Args:
        root: of the executors.
        book, ledger: of the workdir that gets the results.

    Returns:
        How many results there were.
    """
    count = 0
    for folder in [mark.parent for mark in Path(root).glob(f"*/{RUNNING}")]:
        if not _is_orphaned(folder):
            continue
        for file in folder.glob(f"{RESULTS}/*.json"):
            keep(UnitResult.from_json(file.read_text("utf-8")), book, ledger)
            # One by one: whoever is killed here leaves the rest to the next one.
            file.unlink()
            count += 1
        shutil.rmtree(folder, ignore_errors=True)
    return count


def _is_orphaned(folder: Path) -> bool:
    """Returns whether the process of an executor's folder has ended."""
    if folder.name.startswith(f"{_HOST}-"):
        return running_process(folder) is None
    # Processes of another machine are not seen here, only what they touch.
    try:
        return time.time() - (folder / BEAT).stat().st_mtime > PATIENCE_SECONDS
    except FileNotFoundError:
        return True


def shared_threads(count: int) -> int:
    """Returns how many threads of torch each of some workers of this machine gets."""
    import torch

    return max(1, torch.get_num_threads() // count)
