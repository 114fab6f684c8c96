"""TrainProcess: runs `dem train` as a child process and reports its progress to a job."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from workbench.errors import SessionError
from workbench.processes import dem
from workbench.session.job_table import Cancelled, Handle

POLL_SECONDS = 0.2
"""How long to wait for a line of the child before looking whether the job was cancelled."""


class TrainProcess:
    """`dem train --worker` in a child process that saves its state and ends when this process ends.

    The child writes one JSON object per line to stdout: {"moment": …}, {"log": …}, {"step": …} or
    {"error": …}. The end of its stdin stops it, also when this process is killed.

    Args:
        plan: the plan's file.
        out: the folder of the run.
        workdir: the workdir whose ledger gets the cost.
        resume: whether to continue unfinished steps.
        roots: the folders that the plan may read from; the child checks this again where it reads.
    """

    def __init__(
        self, plan: Path, out: Path, workdir: Path, resume: bool, *, roots: Sequence[Path]
    ):
        words = ["train", str(plan), str(out), "--workdir", str(workdir), "--worker"]
        words += ["--resume"] if resume else []
        words += [word for root in roots for word in ("--root", str(root))]
        self._words, self._environment = dem(*words)
        self._lines: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self._last: deque[str] = deque(maxlen=12)

    def carry_out(self, handle: Handle) -> int:
        """Runs the child to its end and returns the number of steps that it trained.

        Raises:
            Cancelled: the job was cancelled, and the child has saved its state.
            SessionError: the child refused the plan or failed.
        """
        handle.progress(0, 1, "starting")
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
            # Only after an error here: without a reader the child would train on unseen.
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

    def _follow(self, process: subprocess.Popen[str], handle: Handle) -> int:
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

    def _report(self, event: dict[str, Any], handle: Handle, stopping: bool) -> int:
        """Passes an event of the child to the job; returns 1 if it is a finished step, else 0."""
        if (moment := event.get("moment")) and not stopping:
            message = (
                f"step {moment['number']} of {moment['of']}, {moment['step']}: "
                f"{moment['done']} of {moment['updates']} updates, loss {moment['loss']:.3f}"
            )
            # The child must end by itself, with its state saved, so Cancelled is not raised here.
            with suppress(Cancelled):
                handle.progress(moment["share"], 1, message)
        for line in (event.get("log"), event.get("step")):
            if line:
                handle.log(line)
        return 1 if event.get("step") else 0

    def _result(self, code: int, done: int, error: str, handle: Handle) -> int:
        """Returns `done` if the child ended well; otherwise raises as carry_out does."""
        if code == 0:
            return done
        if handle.should_stop and code > 0 and not error:
            handle.log("stopped; the whole state is saved, and Resume continues from there")
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
            f"the process that trains {reason}; its last lines are in the log.{hint} What was "
            "trained is kept, and Resume continues from the last saved state."
        )
