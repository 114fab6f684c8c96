"""Trainings of a session: plans carried out by `dem train` in a process of its own, as jobs; what they made, opened.

A process of its own keeps the page free, counts its own time and memory, and may be killed: what it trained is on the disk.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from training.plan import finished_steps
from training.plan.plan_file import read_plan
from training.run import record
from training.run.saved_state import RUN, State
from workbench import commands
from workbench.errors import SessionError
from workbench.plans import plan_files
from workbench.processes import running
from workbench.session.job_table import Cancelled, Handle, Job
from workbench.session.standing import Standing

if TYPE_CHECKING:
    from training.plan.plan import Plan
    from workbench.plans.outlook import Outlook
    from workbench.session.models import Models
    from workbench.session.session import Session

ROOT = Path(__file__).resolve().parents[2]
KIND = "train"
PATIENCE = 0.2
"""Seconds between two looks at whether someone pressed Stop."""


@dataclass(frozen=True)
class RunStep:
    """One step of a run, as far as its folder shows it."""

    name: str
    folder: Path
    state: Literal["done", "begun"]
    saved: int = 0
    """Updates behind the saved state, of one that was begun."""


def outlook(session: Session, plan: Plan, name: str) -> Outlook:
    """What a plan takes, before it starts; see workbench.plans.outlook."""
    from workbench.plans.outlook import outlook as look

    return look(plan, session.workdir.run(name), session.ledger)


def submit(session: Session, file: Path, name: str, *, resume: bool = False) -> Job:
    """Carry out a plan into workdir/trained/NAME as a job.

    Args:
        session: whose folders may be read, and whose ledger gets the cost.
        file: the plan; see training_plans.read.
        name: of the run.
        resume: go on with a step that was begun and not finished.

    Raises:
        SessionError, PlanError, TrainingError: nothing was started.
    """
    out = session.workdir.run(name)
    for job in session.jobs.active():
        if (job.kind, job.key) == (KIND, str(out)):
            return job  # a second press starts nothing
    plan = plan_files.read(session.workdir, session.folders, file)
    if pid := running(out):
        raise SessionError(
            f"{name} is being trained by process {pid} already. Wait for it, or stop it there."
        )
    begun = [step.name for step in steps(out) if step.state == "begun"]
    if begun and not resume:
        raise SessionError(
            f"{name} was begun and not finished ({begun[0]}). Press Resume, or give another name."
        )
    command = commands.train(file, out, session.workdir.root, resume)

    def work(handle: Handle) -> str:
        done = _Child(file, out, session.workdir.root, resume).carry_out(handle)
        return f"{done} of {len(plan.steps)} steps trained now, all are in {commands.display_path(out)}"

    return session.jobs.submit(
        KIND,
        f"{name}: {', '.join(step.name for step in plan.steps)}",
        work,
        key=str(out),
        command=command,
    )


def stop(session: Session, name: str) -> Job | None:
    """Ask a run to save its whole state and end; None where it does not work."""
    key = str(session.workdir.run(name))
    found = [job for job in session.jobs.active() if (job.kind, job.key) == (KIND, key)]
    return session.jobs.cancel(found[0].id) if found else None


def last_job(session: Session, name: str) -> Job | None:
    """The newest job of a run."""
    key = str(session.workdir.run(name))
    return next((job for job in session.jobs.recent(KIND, limit=200) if job.key == key), None)


def runs(session: Session) -> list[str]:
    """The runs of the workdir, the newest first."""
    found = [path.parent for path in (session.workdir.trained).glob(f"*/{finished_steps.PLAN}")]
    return [
        path.name
        for path in sorted(found, key=lambda path: -(path / finished_steps.PLAN).stat().st_mtime)
    ]


def steps(out: Path) -> list[RunStep]:
    """The steps that a run's folder holds, in the order in which they were begun."""
    done = [
        path.parent
        for path in out.glob(f"*/{record.NAME}")
        if not path.parent.name.endswith(".partial")
    ]
    begun = [path.parent for path in out.glob(f"*.training/{RUN}")]
    found = [
        RunStep(path.name, path, "done")
        for path in sorted(done, key=lambda path: (path / record.NAME).stat().st_mtime)
    ]
    for path in begun:
        made = out / path.name.removesuffix(".training")
        state = State(made)
        found.append(RunStep(made.name, made, "begun", state.step(state.newest())))
    return found


def add(session: Session, name: str, chosen: Sequence[str]) -> Models:
    """Open finished steps of a run as further vectors of the composition, at ω = 0; of their base, where nothing is open.

    Raises:
        SessionError, MergingError, EvaluationError: what was open stays open.
    """
    out = session.workdir.run(name)
    done = {step.name: step.folder for step in steps(out) if step.state == "done"}
    if not chosen or not set(chosen) <= done.keys():
        known = ", ".join(done) or "none is finished yet"
        raise SessionError(f"choose finished steps of {name} to add; these are: {known}.")
    new: list[tuple[Path, str | None]] = [(done[step], step) for step in chosen]

    base = (
        session.models.base.path
        if session.ready
        else Path(read_plan(out / finished_steps.PLAN).base)
    )
    for step in chosen:
        _same_base(done[step], base)
    if not session.ready:
        return session.open(base, new)
    models, standing = session.models, session.standing
    have: list[tuple[Path, str | None]] = [
        (Path(vector.path or ""), key) for key, vector in models.vectors.items()
    ]
    open_now = {path.resolve() for path, _ in have}
    if already := [step for step in chosen if done[step].resolve() in open_now]:
        raise SessionError(f"{', '.join(already)} of {name} is in the composition already.")
    made = session.open(
        models.base.path, [*have, *new], models.data_folder, models.start.vocabulary
    )
    session.settle(
        Standing((*standing.omegas, *[0.0] * len(new)), standing.choice)
    )  # what is composed stays as it was
    return made


def _same_base(step: Path, base: Path) -> None:
    """Refuses an adapter on other weights: its product added to this base would be no model that was trained.

    A whole checkpoint is another matter: its difference from any base of its shape is a vector.
    """
    from merging.paths import is_adapter

    known = json.loads((step / record.NAME).read_text("utf-8"))["base"]
    if is_adapter(step) and known["identity"] != record.identity(base):
        raise SessionError(
            f"{step.name} is an adapter on {known['name']}, and the base here is {commands.display_path(base)}. Open that folder "
            "as the base under Models, and then add the step."
        )


# the process that trains


class _Child:
    """`dem train` in a process that ends, with its state saved, when this one does.

    Its stdout is a JSON object a line: {"moment": …}, {"step": …} or {"error": …}. The end of its stdin stops it.
    """

    def __init__(self, plan: Path, out: Path, workdir: Path, resume: bool):
        words = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "workbench.cli",
            "train",
            str(plan),
            str(out),
        ]
        words += ["--workdir", str(workdir), "--worker", *(["--resume"] if resume else [])]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._words, self._environment = words, os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        self._lines: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self._last: deque[str] = deque(maxlen=12)

    def carry_out(self, handle: Handle) -> int:
        """Run it to its end; the steps that were trained.

        Raises:
            Cancelled: it was asked to stop, and has saved its state.
            SessionError: it refused the plan, or broke off.
        """
        handle.progress(0, 1, "starting")
        process = subprocess.Popen(
            self._words, env=self._environment, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        for name, stream in (("out", process.stdout), ("err", process.stderr)):
            threading.Thread(
                target=self._read, args=(name, stream), name=f"{name} of {process.pid}", daemon=True
            ).start()
        try:
            return self._follow(process, handle)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None and not stream.closed:
                    stream.close()

    def _read(self, name: str, stream: IO[str] | None) -> None:
        for line in stream or ():
            self._lines.put((name, line.rstrip("\n")))
        self._lines.put((name, None))

    def _follow(self, process: subprocess.Popen[str], handle: Handle) -> int:
        done, error, ends, asked = 0, "", 0, False
        while ends < 2:
            if handle.should_stop and not asked and process.stdin is not None:
                process.stdin.close()
                asked = True
            try:
                name, line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if line is None:
                ends += 1
            elif name == "err":
                self._last.append(line)
            else:
                event = json.loads(line)
                error = event.get("error", error)
                done += self._told(event, handle, asked)
        return self._ended(process.wait(), done, error, handle)

    def _told(self, event: dict[str, Any], handle: Handle, asked: bool) -> int:
        """Hand on what the process says; 1 for a step that is done."""
        if (moment := event.get("moment")) and not asked:
            words = f"step {moment['number']} of {moment['of']}, {moment['step']}: {moment['done']} of {moment['updates']} updates"
            with suppress(Cancelled):  # it has to end by itself, with its state saved
                handle.progress(moment["share"], 1, f"{words}, loss {moment['loss']:.3f}")
        for said in (event.get("log"), event.get("step")):
            if said:
                handle.log(said)
        return 1 if event.get("step") else 0

    def _ended(self, code: int, done: int, error: str, handle: Handle) -> int:
        if code == 0:
            return done
        if handle.should_stop and code > 0 and not error:
            handle.log("stopped; the whole state is kept, and Resume goes on from there")
            raise Cancelled
        for line in self._last:
            handle.log(line)
        if error:
            raise SessionError(error)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        often = (
            " Often that means that memory ran out: give a smaller batch with a larger accumulation."
            if code == -9
            else ""
        )
        raise SessionError(
            f"the process that trains {how}; its last words are in the log.{often} What was trained is kept, and Resume "
            "goes on from the last saved state."
        )
