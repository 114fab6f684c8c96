"""Training job: carries out a plan with `dem train` and opens the finished steps as vectors.

The training runs in its own process. That keeps the page responsive, makes its time and memory
measurable, and a kill costs no more than the updates since the last saved state.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from training.plan import finished_steps
from training.plan.plan_file import read_plan
from training.run import record
from training.run.saved_state import RUN, State
from workbench import commands
from workbench.errors import SessionError
from workbench.jobs.worker_process import WorkerProcess
from workbench.plans import plan_files
from workbench.processes import running_process
from workbench.session.job_table import Handle, Job
from workbench.session.standing import Standing

if TYPE_CHECKING:
    from training.plan.plan import Plan
    from workbench.plans.outlook import Outlook
    from workbench.session.models import Models
    from workbench.session.session import Session

KIND = "train"
"""The kind of the job."""


@dataclass(frozen=True)
class RunStep:
    """One step of a run, as its folder shows it.

    Attributes:
        name: name of the step.
        folder: the folder of its weights; it does not exist yet if the step is only begun.
        state: "done" or "begun".
        saved: updates in the last saved state, of a step that is begun.
    """

    name: str
    folder: Path
    state: Literal["done", "begun"]
    saved: int = 0


def outlook(session: Session, plan: Plan, name: str) -> Outlook:
    """Returns the outlook of a plan for the run NAME; see workbench.plans.outlook."""
    from workbench.plans.outlook import outlook as look

    return look(plan, session.workdir.run(name), session.ledger)


def submit(session: Session, file: Path, name: str, *, resume: bool = False) -> Job:
    """Starts a job that carries out a plan into workdir/trained/NAME.

    Args:
        session: its folders may be read, and its ledger gets the cost.
        file: the plan's file; see plan_files.read.
        name: name of the run.
        resume: whether to continue a step that was begun and not finished.

    Raises:
        SessionError, PlanError, TrainingError: nothing was started.
    """
    out = session.workdir.run(name)
    # Before the checks below: they would take this page's own running job for another process.
    for job in session.jobs.active():
        if (job.kind, job.key) == (KIND, str(out)):
            return job  # a second click starts nothing
    plan = plan_files.read(session.workdir, session.folders, file)
    if pid := running_process(out):
        raise SessionError(
            f"process {pid} already trains {name}. Wait for it, or stop it where it was started."
        )
    # The child would refuse this too, but only seconds later, after its imports.
    begun = [step.name for step in steps(out) if step.state == "begun"]
    if begun and not resume:
        raise SessionError(
            f"{name} was begun and not finished ({begun[0]}). Press Resume, or give another name."
        )
    command = commands.train(file, out, session.workdir.root, resume)

    def work(handle: Handle) -> str:
        words = ["train", str(file), str(out), "--workdir", str(session.workdir.root)]
        words += ["--resume"] if resume else []
        # The child checks again where it reads that the plan stays in these folders.
        words += [word for root in session.folders.roots for word in ("--root", str(root))]
        done = WorkerProcess(words).carry_out(handle)
        return (
            f"{done} of {len(plan.steps)} steps trained now, "
            f"all are in {commands.display_path(out)}"
        )

    return session.jobs.submit(
        KIND,
        f"{name}: {', '.join(step.name for step in plan.steps)}",
        work,
        key=str(out),
        command=command,
    )


def stop(session: Session, name: str) -> Job | None:
    """Asks a run to save its whole state and end; returns its job, or None if it has none."""
    key = str(session.workdir.run(name))
    active = [job for job in session.jobs.active() if (job.kind, job.key) == (KIND, key)]
    return session.jobs.cancel(active[0].id) if active else None


def last_job(session: Session, name: str) -> Job | None:
    """Returns the newest job of a run, or None if it has none."""
    key = str(session.workdir.run(name))
    return next((job for job in session.jobs.recent(KIND, limit=200) if job.key == key), None)


def runs(session: Session) -> list[str]:
    """Returns the names of the workdir's runs, newest first."""
    # plan.yml is written whenever a run begins or continues, so its time is that of the run.
    plans = session.workdir.trained.glob(f"*/{finished_steps.PLAN}")
    newest_first = sorted(plans, key=lambda plan: -plan.stat().st_mtime)
    return [plan.parent.name for plan in newest_first]


def steps(out: Path) -> list[RunStep]:
    """Returns the steps in a run's folder: the finished ones by age, then the begun ones."""
    # A .partial folder is a checkpoint that is still being written.
    done = [
        path.parent
        for path in out.glob(f"*/{record.NAME}")
        if not path.parent.name.endswith(".partial")
    ]
    begun = [path.parent for path in out.glob(f"*.training/{RUN}")]
    run_steps = [
        RunStep(path.name, path, "done")
        for path in sorted(done, key=lambda path: (path / record.NAME).stat().st_mtime)
    ]
    for path in begun:
        folder = out / path.name.removesuffix(".training")
        state = State(folder)
        run_steps.append(RunStep(folder.name, folder, "begun", state.step(state.newest())))
    return run_steps


def add_steps(session: Session, name: str, chosen: Sequence[str]) -> Models:
    """Opens finished steps of a run as further vectors at ω = 0; the composition stays the same.

    If no models are open, the base of the plan is opened with them.

    Args:
        session: the session.
        name: name of the run.
        chosen: names of the steps.

    Raises:
        SessionError, MergingError, EvaluationError: nothing changed: a step is not finished, is
            open already, is an adapter on another base, or cannot be opened.
    """
    out = session.workdir.run(name)
    done = {step.name: step.folder for step in steps(out) if step.state == "done"}
    if not chosen or not set(chosen) <= done.keys():
        finished = ", ".join(done) or "none is finished yet"
        raise SessionError(f"choose finished steps of {name} to add; these are: {finished}.")
    new: list[tuple[Path, str | None]] = [(done[step], step) for step in chosen]

    base = (
        session.models.base.path
        if session.ready
        # The run may be one of the command line, whose plan may name any folder.
        else session.folders.resolve(read_plan(out / finished_steps.PLAN).base)
    )
    for step in chosen:
        _check_base(done[step], base)
    if not session.ready:
        return session.open(base, new)
    models, standing = session.models, session.standing
    # Compared by folder, because a step that is open may have been renamed.
    open_now = {path.resolve() for path in models.checkpoints}
    if already := [step for step in chosen if done[step].resolve() in open_now]:
        raise SessionError(f"{', '.join(already)} of {name} is in the composition already.")
    opened = session.open(
        models.base.path,
        [*models.named_folders, *new],
        models.data_folder,
        models.start.vocabulary,
    )
    # Opening models resets the standing; the composition is to stay as it was.
    session.settle(Standing((*standing.omegas, *[0.0] * len(new)), standing.choice))
    return opened


def _check_base(step: Path, base: Path) -> None:
    """Raises SessionError if a step is an adapter that was trained on another base.

    Added to this base, its product B·A would give a model that was never trained. A full checkpoint
    is allowed: its difference from any base of its shape is a vector.
    """
    from merging.paths import is_adapter

    trained_on = json.loads((step / record.NAME).read_text("utf-8"))["base"]
    recorded = trained_on["identity"]
    if is_adapter(step) and recorded != record.identity_like(base, recorded):
        raise SessionError(
            f"{step.name} is an adapter on {trained_on['name']}, and the base here is "
            f"{commands.display_path(base)}. Open that folder as the base under Models, and then "
            "add the step."
        )
