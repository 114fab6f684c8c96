"""Long verbs as jobs that outlive the page: state, progress, ETA, log and cancel, kept in SQLite.

A page may be reloaded, closed or opened twice; the job goes on, and every page reads the same row. A job runs in a
thread of this process; jobs of one kind run one after the other. A job whose process died is `interrupted`.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

log = logging.getLogger(__name__)

ACTIVE = ("queued", "running", "cancelling")
FINISHED = ("done", "failed", "cancelled", "interrupted")

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, title TEXT NOT NULL, key TEXT NOT NULL, command TEXT NOT NULL,
  state TEXT NOT NULL, done REAL NOT NULL DEFAULT 0, total REAL NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '', result TEXT NOT NULL DEFAULT '', created REAL NOT NULL, started REAL, finished REAL,
  pid INTEGER NOT NULL, boot REAL NOT NULL);
CREATE TABLE IF NOT EXISTS lines (job INTEGER NOT NULL REFERENCES jobs(id), line TEXT NOT NULL);
"""


class Cancelled(Exception):
    """Raised inside a job, at its next step, after someone asked for it to stop."""


@dataclass(frozen=True)
class Job:
    """One row of the table. Times are seconds since the epoch; `done` and `total` are in the job's own unit."""

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
        """Whether it still waits or works."""
        return self.state in ACTIVE

    @property
    def share(self) -> float:
        """Progress between 0 and 1; 0 while the total is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    def seconds(self, now: float | None = None) -> float:
        """How long it has worked, or worked."""
        if self.started is None:
            return 0.0
        return max(0.0, (self.finished or now or time.time()) - self.started)

    def eta(self, now: float | None = None) -> float | None:
        """Seconds left at the measured pace; None until 5 % or 10 s are done, for an earlier guess misleads."""
        spent = self.seconds(now)
        if self.state != "running" or self.share <= 0 or (self.share < 0.05 and spent < 10):
            return None
        return max(1.0, spent * (1 - self.share) / self.share)


FIELDS = ", ".join(Job.__dataclass_fields__)


class Handle:
    """What a running job holds: it reports progress and asks whether it should stop."""

    def __init__(self, jobs: Jobs, id: int, stop: threading.Event):
        self.id = id
        self._jobs = jobs
        self._stop = stop
        self._written = 0.0

    @property
    def should_stop(self) -> bool:
        """True once someone pressed cancel."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raise Cancelled if the job was asked to stop."""
        if self._stop.is_set():
            raise Cancelled

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Say how far the job is; raises Cancelled if it was asked to stop."""
        self.check()
        now = time.monotonic()
        if now - self._written < 0.1 and done < total:
            return  # ten rows a second are plenty for a page that looks once a second
        self._written = now
        self._jobs._write(self.id, done=done, total=total, message=message)

    def log(self, line: str) -> None:
        """Add a line to the job's log."""
        self._jobs._execute("INSERT INTO lines VALUES (?, ?)", (self.id, line))


Work = Callable[[Handle], str]


class Jobs:
    """The table of jobs of one workdir and the threads that work on them."""

    def __init__(self, path: Path):
        self._lock = threading.RLock()
        self._stops: dict[int, threading.Event] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._lanes: dict[str, threading.Lock] = {}
        self._me = (os.getpid(), psutil.Process().create_time())
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)
        self._bury_the_dead()

    def submit(self, kind: str, title: str, work: Work, *, key: str, command: str = "") -> Job:
        """Start a job, or return the one that already works on the same key: a second click starts nothing."""
        with self._lock:
            for job in self.active():
                if (job.kind, job.key) == (kind, key):
                    return job
            cursor = self._execute(
                "INSERT INTO jobs (kind, title, key, command, state, created, pid, boot) "
                "VALUES (?, ?, ?, ?, 'queued', ?, ?, ?)",
                (kind, title, key, command, time.time(), *self._me),
            )
            id = int(cursor.lastrowid or 0)
            stop = self._stops[id] = threading.Event()
            lane = self._lanes.setdefault(kind, threading.Lock())
            thread = threading.Thread(
                target=self._run, args=(id, work, stop, lane), name=f"job-{id}", daemon=True
            )
            self._threads[id] = thread
            thread.start()
            return self.get(id)

    def cancel(self, id: int) -> Job:
        """Ask a job to stop at its next step. Asking twice, or after the end, changes nothing."""
        with self._lock:
            job = self.get(id)
            if job.active and id in self._stops:
                self._stops[id].set()
                self._write(id, state="cancelling", message="stopping at the next step")
            return self.get(id)

    def get(self, id: int) -> Job:
        """The row of one job; KeyError if there is none."""
        rows = self._rows("WHERE id = ?", (id,))
        if not rows:
            raise KeyError(f"no job {id}")
        return rows[0]

    def active(self) -> list[Job]:
        """Jobs that wait or work, oldest first."""
        return self._rows("WHERE state IN ('queued', 'running', 'cancelling') ORDER BY id")

    def recent(self, kind: str | None = None, limit: int = 20) -> list[Job]:
        """The newest jobs, newest first."""
        where, values = ("WHERE kind = ?", (kind,)) if kind else ("", ())
        return self._rows(f"{where} ORDER BY id DESC LIMIT {int(limit)}", values)

    def tail(self, id: int, limit: int = 8) -> list[str]:
        """The last lines of a job's log, oldest first."""
        rows = self._execute(
            "SELECT line FROM lines WHERE job = ? ORDER BY rowid DESC LIMIT ?", (id, limit)
        ).fetchall()
        return [row[0] for row in reversed(rows)]

    def wait(self, id: int, timeout: float = 60) -> Job:
        """Wait for a job of this process to end (for tests and the command line)."""
        if thread := self._threads.get(id):
            thread.join(timeout)
        return self.get(id)

    def close(self) -> None:
        """Ask every job to stop, wait a moment, close the table."""
        for stop in self._stops.values():
            stop.set()
        for thread in list(self._threads.values()):
            thread.join(5)
        with self._lock:
            self._db.close()

    def _run(self, id: int, work: Work, stop: threading.Event, lane: threading.Lock) -> None:
        """The life of one job, in its thread."""
        while not lane.acquire(timeout=0.1):
            if stop.is_set():
                self._write(id, state="cancelled", message="", finished=time.time())
                return
        try:
            with self._lock:
                if stop.is_set():
                    raise Cancelled
                self._write(id, state="running", started=time.time())
            result = work(Handle(self, id, stop))
            # A result that came although cancel was pressed is still a result, and is shown as one.
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
            lane.release()

    def _bury_the_dead(self) -> None:
        """Mark jobs whose process is gone as interrupted. Another live server on this workdir keeps its own."""
        for id, pid, boot in self._execute(
            f"SELECT id, pid, boot FROM jobs WHERE state IN {ACTIVE}"
        ).fetchall():
            try:
                alive = abs(psutil.Process(pid).create_time() - boot) < 1 and pid != self._me[0]
            except psutil.Error:
                alive = False
            if not alive:
                self._write(id, state="interrupted", message="", finished=time.time())

    def _rows(self, where: str, values: tuple[Any, ...] = ()) -> list[Job]:
        return [
            Job(*row)
            for row in self._execute(f"SELECT {FIELDS} FROM jobs {where}", values).fetchall()
        ]

    def _write(self, id: int, **values: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        self._execute(f"UPDATE jobs SET {names} WHERE id = ?", (*values.values(), id))

    def _execute(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        with self._lock:
            return self._db.execute(sql, values)
