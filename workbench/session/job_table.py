"""Background jobs that outlive the page, with their state, progress and log in SQLite.

A page may be reloaded, closed or opened twice: the job continues, and every page shows it. A job
runs in a thread of this process, and jobs of one kind run one after the other. A job whose process
died is marked `interrupted` at the next start.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from evaluation.records.database import Database, Schema
from workbench.pace import Pace

log = logging.getLogger(__name__)

ACTIVE = ("queued", "running", "cancelling")
FINISHED = ("done", "failed", "cancelled", "interrupted")

# IF NOT EXISTS: files that were made before the table had a version already hold these tables.
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, title TEXT NOT NULL, key TEXT NOT NULL,
  command TEXT NOT NULL, state TEXT NOT NULL, done REAL NOT NULL DEFAULT 0,
  total REAL NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '',
  result TEXT NOT NULL DEFAULT '', created REAL NOT NULL, started REAL, finished REAL,
  pid INTEGER NOT NULL, boot REAL NOT NULL);
CREATE TABLE IF NOT EXISTS lines (job INTEGER NOT NULL REFERENCES jobs(id), line TEXT NOT NULL);
"""
SCHEMA = Schema(1, _TABLES, "job list")


class Cancelled(Exception):
    """Raised inside a job, at its next step, after the user cancelled it."""


@dataclass(frozen=True)
class Job:
    """One row of the table.

    Attributes:
        id: number of the job in its workdir.
        kind: "benchmark", "export", "compare", "train", ...; jobs of one kind run one at a time.
        title: what the job does, for the user.
        key: identifies the work; a second job with the same kind and key is not started.
        command: the `dem` command line that does the same; "" if there is none.
        state: one of ACTIVE or FINISHED.
        done, total: progress, in the job's own unit.
        message: what the job is doing now.
        error: why it failed; "" if it did not.
        result: what it made; "" before it is done.
        created, started, finished: seconds since the epoch; None until then.
    """

    id: int
    kind: str
    title: str
    key: str
    command: str
    state: str
    done: float
    total: float
    message: str
    error: str
    result: str
    created: float
    started: float | None
    finished: float | None

    @property
    def active(self) -> bool:
        """Whether the job still waits or works."""
        return self.state in ACTIVE

    @property
    def share(self) -> float:
        """Progress from 0 to 1; 0 while the total is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    def seconds(self, now: float | None = None) -> float:
        """Returns the seconds from its start to its end, or to now if it still runs."""
        if self.started is None:
            return 0.0
        return max(0.0, (self.finished or now or time.time()) - self.started)


FIELDS = ", ".join(Job.__dataclass_fields__)


class Handle:
    """Given to a running job: it reports progress through it and asks whether to stop."""

    def __init__(self, jobs: Jobs, id: int, stop: threading.Event):
        self.id = id
        self._jobs = jobs
        self._stop = stop
        self._written = 0.0
        self._pace = jobs._paces[id] = Pace()

    @property
    def should_stop(self) -> bool:
        """Whether the user cancelled the job."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raises Cancelled if the user cancelled the job."""
        if self._stop.is_set():
            raise Cancelled

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Reports how far the job is.

        Raises:
            Cancelled: the user cancelled the job.
        """
        self.check()
        now = time.monotonic()
        # The page polls once a second, so ten writes a second are enough.
        if now - self._written < 0.1 and done < total:
            return
        self._written = now
        self._pace.mark(min(1.0, done / total) if total > 0 else 0.0, now)
        self._jobs._write(self.id, done=done, total=total, message=message)

    def log(self, line: str) -> None:
        """Adds a line to the job's log."""
        self._jobs._add_line(self.id, line)


Work = Callable[[Handle], str]


class Jobs:
    """The jobs of one workdir and their threads. May be used from any thread.

    Args:
        path: the SQLite file; made, with its folder, if it does not exist. A damaged file is moved
            aside, and an empty one takes its place.
        say: called with one sentence if a damaged file was moved aside.

    Raises:
        StoreError: the file cannot be opened, or a newer version of this program made it.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda message: None):
        # Reentrant: submit() and cancel() hold it over several reads and writes.
        self._lock = threading.RLock()
        self._stops: dict[int, threading.Event] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._paces: dict[int, Pace] = {}
        self._lanes: dict[str, threading.Lock] = {}
        self._me = (os.getpid(), psutil.Process().create_time())
        self._database = Database(path, SCHEMA, say)
        self._mark_interrupted()

    def submit(self, kind: str, title: str, work: Work, *, key: str, command: str = "") -> Job:
        """Starts a job. A second click, with the same kind and key, returns the active job.

        Args:
            kind: jobs of one kind run one after the other.
            title: what the job does, for the user.
            work: does the work and returns its result as text; see Handle.
            key: identifies the work.
            command: the `dem` command line that does the same.
        """
        with self._lock:
            # Under the lock, because two clicks at once would both find no active job.
            for job in self.active():
                if (job.kind, job.key) == (kind, key):
                    return job
            columns = ("kind", "title", "key", "command", "state", "created", "pid", "boot")
            row = (kind, title, key, command, "queued", time.time(), *self._me)
            (id,) = self._database.insert("jobs", columns, [row])
            stop = self._stops[id] = threading.Event()
            lane = self._lanes.setdefault(kind, threading.Lock())
            # A daemon: a job that never asks whether to stop must not keep the server from ending.
            thread = threading.Thread(
                target=self._run, args=(id, work, stop, lane), name=f"job-{id}", daemon=True
            )
            self._threads[id] = thread
            thread.start()
            return self.get(id)

    def left(self, job: Job) -> float | None:
        """Returns the seconds left at the measured pace; None if it is not known, or not here."""
        pace = self._paces.get(job.id) if job.state == "running" else None
        return pace.left() if pace else None

    def cancel(self, id: int) -> Job:
        """Asks a job to stop at its next step. Asking twice, or after its end, changes nothing."""
        with self._lock:
            job = self.get(id)
            if job.active and id in self._stops:
                self._stops[id].set()
                self._write(id, state="cancelling", message="stopping at the next step")
            return self.get(id)

    def get(self, id: int) -> Job:
        """Returns one job.

        Raises:
            KeyError: there is no job with this id.
        """
        rows = self._rows("WHERE id = ?", (id,))
        if not rows:
            raise KeyError(f"no job {id}")
        return rows[0]

    def active(self) -> list[Job]:
        """Returns the jobs that wait or work, oldest first."""
        return self._rows("WHERE state IN ('queued', 'running', 'cancelling') ORDER BY id")

    def recent(self, kind: str | None = None, limit: int = 20) -> list[Job]:
        """Returns the `limit` newest jobs, of one kind if it is given, newest first."""
        condition, values = ("WHERE kind = ?", (kind,)) if kind else ("", ())
        return self._rows(f"{condition} ORDER BY id DESC LIMIT {int(limit)}", values)

    def tail(self, id: int, limit: int = 8) -> list[str]:
        """Returns the last `limit` lines of a job's log, oldest first."""
        rows = self._database.rows(
            "SELECT line FROM lines WHERE job = ? ORDER BY rowid DESC LIMIT ?", (id, limit)
        )
        return [row[0] for row in reversed(rows)]

    def wait(self, id: int, timeout: float = 60) -> Job:
        """Waits at most `timeout` seconds for a job of this process to end, and returns it."""
        if thread := self._threads.get(id):
            thread.join(timeout)
        return self.get(id)

    def close(self) -> None:
        """Cancels every job, waits up to 5 s for each, and closes the table."""
        for stop in self._stops.values():
            stop.set()
        for thread in list(self._threads.values()):
            thread.join(5)
        with self._lock:
            self._database.close()

    def _run(self, id: int, work: Work, stop: threading.Event, lane: threading.Lock) -> None:
        """Runs one job in its own thread, from queued to finished."""
        # Wait in short pieces, so that a queued job can be cancelled as well.
        while not lane.acquire(timeout=0.1):
            if stop.is_set():
                self._write(id, state="cancelled", message="", finished=time.time())
                return
        try:
            # Under the lock: a cancel() in between would otherwise be overwritten by "running".
            with self._lock:
                if stop.is_set():
                    raise Cancelled
                self._write(id, state="running", started=time.time())
            result = work(Handle(self, id, stop))
            # A job that finished although it was cancelled has a result, so it counts as done.
            self._write(id, state="done", result=result, message="", finished=time.time())
        except Cancelled:
            self._write(id, state="cancelled", message="", finished=time.time())
        except Exception as error:
            log.exception("job %d failed", id)
            message = str(error) or type(error).__name__
            self._write(id, state="failed", error=message, message="", finished=time.time())
        finally:
            self._stops.pop(id, None)
            self._threads.pop(id, None)
            self._paces.pop(id, None)
            lane.release()

    def _mark_interrupted(self) -> None:
        """Marks active jobs whose process has ended. Jobs of another live server are left."""
        active = f"SELECT id, pid, boot FROM jobs WHERE state IN {ACTIVE}"
        for id, pid, boot in self._database.rows(active):
            # The system reuses pids, so the start time of the process is compared as well.
            try:
                alive = abs(psutil.Process(pid).create_time() - boot) < 1 and pid != self._me[0]
            except psutil.Error:
                alive = False
            if not alive:
                self._write(id, state="interrupted", message="", finished=time.time())

    def _rows(self, condition: str, values: tuple[Any, ...] = ()) -> list[Job]:
        query = f"SELECT {FIELDS} FROM jobs {condition}"
        return [Job(*row) for row in self._database.rows(query, values)]

    def _write(self, id: int, **values: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        # The lock keeps the end of a job out of cancel(), which reads the state and then writes it.
        with self._lock, self._database.writing() as connection:
            connection.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*values.values(), id))

    def _add_line(self, id: int, line: str) -> None:
        self._database.insert("lines", ("job", "line"), [(id, line)])
