"""WorkerProcess: runs a `dem` command as a child process and reports its progress to a job."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any, Protocol

from workbench.errors import SessionError
from workbench.processes import dem
from workbench.session.job_table import Cancelled, Handle

POLL_SECONDS = 0.2
"""How long to wait for a line of the child before looking whether the job was cancelled."""


class Reporter(Protocol):
    """What a process reports to: the handle of a job, or a part of one."""

    @property
    def should_stop(self) -> bool:
        """Whether the user cancelled the job."""
        ...

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Takes how far the work is; see workbench.session.job_table.Handle.progress."""

    def log(self, line: str) -> None:
        """Adds a line to the job's log."""


class JobPart:
    """Reports the progress of one of several processes of a job, as a part of the whole.

    Args:
        handle: of the job.
        shares: of the job, that are done when the process starts, when its imports are done, and
            when it ends.
        name: what the process does; messages begin with it.
    """

    def __init__(self, handle: Handle, shares: tuple[float, float, float], name: str) -> None:
        self._handle, self._name = handle, name
        self._started, self._ready, self._ended = shares

    @property
    def should_stop(self) -> bool:
        """Whether the user cancelled the job."""
        return self._handle.should_stop

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Reports how far this part is; raises Cancelled as the handle does."""
        # A process that still starts does not know its total.
        here = self._started
        if total:
            here = self._ready + done / total * (self._ended - self._ready)
        self._handle.progress(here, 1, f"{self._name}: {message}" if message else self._name)

    def log(self, line: str) -> None:
        """Adds a line to the job's log."""
        self._handle.log(line)


class WorkerProcess:
    """`dem … --worker` in a child process that keeps its work and ends when this process ends.

    The child writes one JSON object per line to stdout: {"moment": …} of a training, {"progress":
    …}, {"stage": …}, {"log": …}, {"step": …} or {"error": …}. The end of its stdin stops it, also
    when this process is killed.

    Args:
        words: the command's words after `dem`, without --worker.
    """

    def __init__(self, words: Sequence[str]):
        self._words, self._environment = dem(*words, "--worker")
        self._lines: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self._last: deque[str] = deque(maxlen=12)
        # The stages of equal length that are done, and all of them; a command may have only one.
        self._stage, self._stages = 0, 1

    def carry_out(self, handle: Reporter) -> int:
        """Runs the child to its end and returns the number of steps that it trained in full.

        Raises:
            Cancelled: the job was cancelled, and the child has saved its state.
            SessionError: the child refused its words or failed.
        """
        handle.progress(0, 0, "starting")
        process = subprocess.Popen(
            self._words, env=self._environment, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        # One thread per pipe: a pipe that nobody reads fills up and blocks the child.
        for name, stream in (("out", process.stdout), ("err", process.stderr)):
            threading.Thread(
                target=self._read, args=(name, stream), name=f"{name} of {process.pid}", daemon=True
            ).start()
        try:
            return self._follow(process, handle)
        finally:
            # Only after an error here: without a reader the child would work on unseen.
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None and not stream.closed:
                    stream.close()

    def _read(self, name: str, stream: IO[str] | None) -> None:
        """Puts (name, line) of a pipe into the queue, and (name, None) at its end."""
        for line in stream or ():
            self._lines.put((name, line.rstrip("\n")))
        self._lines.put((name, None))

    def _follow(self, process: subprocess.Popen[str], handle: Reporter) -> int:
        """Handles the child's lines until both pipes end; returns the number of finished steps."""
        done, error, closed_pipes, stopping = 0, "", 0, False
        while closed_pipes < 2:
            # The end of stdin asks the child to stop. A signal would not reach it if this process
            # were killed; the end of the pipe does.
            if handle.should_stop and not stopping and process.stdin is not None:
                process.stdin.close()
                stopping = True
            try:
                name, line = self._lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                closed_pipes += 1
            elif name == "err":
                self._last.append(line)
            else:
                event = json.loads(line)
                error = event.get("error", error)
                done += self._report(event, handle, stopping)
        return self._result(process.wait(), done, error, handle)

    def _report(self, event: dict[str, Any], handle: Reporter, stopping: bool) -> int:
        """Passes an event of the child to the job; returns 1 if it is a finished step, else 0."""
        share, message = None, ""
        if moment := event.get("moment"):
            share = moment["share"]
            message = (
                f"step {moment['number']} of {moment['of']}, {moment['step']}: "
                f"{moment['done']} of {moment['updates']} updates, loss {moment['loss']:.3f}"
            )
        elif count := event.get("progress"):
            share = count["done"] / count["total"] if count["total"] else 0.0
            message = f"{count['done']:,} of {count['total']:,} {count['what']}"
        elif stage := event.get("stage"):
            self._stage, self._stages = stage["done"], stage["of"]
            share = 0.0
        if share is not None and not stopping:
            # The child must end by itself, with its work kept, so Cancelled is not raised here.
            with suppress(Cancelled):
                handle.progress((self._stage + share) / self._stages, 1, message)
        for line in (event.get("log"), event.get("step")):
            if line:
                handle.log(line)
        return 1 if event.get("step") else 0

    def _result(self, code: int, done: int, error: str, handle: Reporter) -> int:
        """Returns `done` if the child ended well; otherwise raises as carry_out does."""
        if code == 0:
            return done
        if handle.should_stop and code > 0 and not error:
            handle.log("stopped; what was done is kept, and Resume continues from there")
            raise Cancelled
        for line in self._last:
            handle.log(line)
        if error:
            raise SessionError(error)
        reason = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        # SIGKILL (9) is what the system sends when memory runs out.
        hint = (
            " Often that means that memory ran out: give a smaller batch with a larger "
            "accumulation."
            if code == -9
            else ""
        )
        raise SessionError(
            f"the process that does this {reason}; its last lines are in the log.{hint} What was "
            "done is kept, and Resume continues from what was saved last."
        )
