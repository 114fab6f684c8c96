"""Carries out a plan: trains its steps one after the other, each in its own folder.

run_plan(read_plan("plan.yml"), Path("trained"))

trained/code.math/              a step: a checkpoint with its training.json
trained/code.math--general/     the next step
trained/plan.yml                the plan that was carried out last
trained/plan.json               every step that the folder holds: parent, counts, cost

Steps that are finished already are reused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from training.errors import TrainingError, TrainingStopped
from training.plan import finished_steps
from training.plan.estimate import estimate
from training.plan.finished_steps import PLAN, RECORD
from training.plan.forecast import StepForecast
from training.plan.grouping import States
from training.plan.plan import Plan
from training.plan.plan_file import plan_yaml
from training.plan.sources import plain_value
from training.run import record
from training.run.cost import Spent
from training.run.finetune import Trained, run
from training.run.launch import is_main, process_count
from training.run.record import CurvePoint
from training.run.saved_state import write_json
from training.run.shared import Shared


class Moment(NamedTuple):
    """The progress of a plan at one moment."""

    step: str
    """Name of the step that is being trained."""
    number: int
    """Number of the step in the plan, counted from 1."""
    of: int
    """Number of steps of the plan."""
    done: int
    """Number of updates that are done in this step."""
    updates: int
    """Number of updates of this step in all."""
    loss: float
    """Last training loss, nats per supervised token."""
    share: float
    """Share of the tokens of all untrained steps that are processed, 0 to 1.

    It is about the share of the time.
    """


Progress = Callable[[Moment], None]
"""A function that is called as the training proceeds."""


@dataclass(frozen=True)
class Made:
    """A finished step.

    Attributes:
        ready: the step with its data and its forecast.
        folder: folder of the checkpoint.
        spent: cost of its training, now or earlier.
        curve: its losses.
        new: whether it was trained by this call.
    """

    ready: StepForecast
    folder: Path
    spent: Spent
    curve: tuple[CurvePoint, ...]
    new: bool


@dataclass(frozen=True)
class Watching:
    """The caller's functions that observe a plan's progress and can stop it.

    Attributes:
        progress: called as the training proceeds.
        should_stop: called after every update; True saves the state and ends the training.
        on_log: called with the name of a step and each point of its curve.
        on_step: called with each step that this call has trained, when it is done; a ledger
            records its cost.
    """

    progress: Progress = lambda moment: None
    should_stop: Callable[[], bool] = lambda: False
    on_log: Callable[[str, CurvePoint], None] = lambda step, point: None
    on_step: Callable[[Made], None] = lambda made: None


def run_plan(
    plan: Plan,
    out: Path,
    progress: Progress = lambda moment: None,
    should_stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    *,
    on_log: Callable[[str, CurvePoint], None] = lambda step, point: None,
    on_step: Callable[[Made], None] = lambda made: None,
    states: States | None = None,
) -> list[Made]:
    """Trains every step of a plan that `out` does not hold yet, parents first.

    A step that two plans share is trained once if both are carried out in the same folder. Each
    step starts from its parent (see training.plan.step_origin), with a new optimiser and its own
    learning rate schedule. Under `accelerate launch`, every process calls this function, and the
    main one writes and reports.

    Args:
        plan: the plan.
        out: the folder of all steps; it may exist.
        progress: see Watching.
        should_stop: see Watching.
        resume: whether to continue an unfinished step. Finished steps are reused in any case.
        on_log: see Watching.
        on_step: see Watching.
        states: computes hidden states; see training.plan.grouping.States.

    Returns:
        Every step of the plan in order, including the ones that existed before.

    Raises:
        PlanError: with everything that is wrong in the plan, its sources and its folders; nothing
            was trained.
        TrainingStopped: should_stop returned True; the finished steps and the state are kept.
    """
    watching = Watching(progress, should_stop, on_log, on_step)
    shared = Shared()
    steps = estimate(plan, out, resume=resume, states=states, shared=shared)
    if is_main():
        out.mkdir(parents=True, exist_ok=True)
        (out / PLAN).write_text(plan_yaml(plan), "utf-8")
    _wait_for_processes(steps)
    identities = finished_steps.plan_identities(
        [(ready.step, ready.stage) for ready in steps], process_count()
    )
    total = sum(ready.tokens for ready in steps if ready.standing != "done")
    before, finished = 0, []
    for number, ready in enumerate(steps, start=1):
        made = _read_finished(ready, out) if ready.standing == "done" else None
        if made is None:
            # The training itself asks only after its first update, and loading takes a while.
            if should_stop():
                raise TrainingStopped(
                    f"stopped before step {number} of {len(steps)}, {ready.name}. "
                    "The finished steps are kept."
                )
            clock = _Clock(ready, number, len(steps), before, total)
            made = _train(ready, out, watching, clock, shared)
            before += ready.tokens
        # After every step, so that plan.json lists what the folder holds if a later step fails.
        if is_main():
            _record(out, made, identities[ready.name])
        if made.new:
            on_step(made)
        finished.append(made)
    return finished


class _Clock(NamedTuple):
    """Converts the updates of one step to the progress of the whole plan."""

    ready: StepForecast
    number: int
    of: int
    before: int
    """Number of tokens of the steps that this call trained before this one."""
    total: int
    """Number of tokens of all steps that this call trains."""

    def moment(self, done: int, updates: int, loss: float) -> Moment:
        share = (self.before + self.ready.tokens * done / updates) / self.total
        return Moment(self.ready.name, self.number, self.of, done, updates, loss, share)


def _train(
    ready: StepForecast, out: Path, watching: Watching, clock: _Clock, shared: Shared
) -> Made:
    folder = out / ready.name
    trained: Trained = run(
        ready.origin.of(ready.stage, out),
        folder,
        lambda done, updates, loss: watching.progress(clock.moment(done, updates, loss)),
        # `estimate` has already refused an unwanted unfinished step. If there is a state now,
        # another process of this run has just begun it.
        resume=True,
        should_stop=watching.should_stop,
        on_log=lambda point: watching.on_log(ready.name, point),
        shared=shared,
    )
    return Made(ready, folder, trained.spent, trained.curve, new=True)


def _read_finished(ready: StepForecast, out: Path) -> Made:
    """Reads a finished step from its folder.

    Raises:
        TrainingError: its parent was missing, was trained again, and has other weights now.
    """
    folder = out / ready.name
    document = json.loads((folder / record.NAME).read_text("utf-8"))
    placed = ready.origin.of(ready.stage, out)
    # `estimate` compared only with parents that existed then; this one may have been trained since.
    for name, start in (("base", placed.base), ("adapter", placed.adapter)):
        recorded = (document.get(name) or {"identity": ""})["identity"]
        if start is not None and recorded != record.identity_like(start, recorded):
            raise TrainingError(
                f"{folder} was trained from other weights than {start} now holds. "
                "Move one of the two away."
            )
    curve = tuple(CurvePoint(**point) for point in document["curve"])
    return Made(ready, folder, Spent(**document["spent"]), curve, new=False)


def _record(out: Path, made: Made, identity: str) -> None:
    """Adds a step to plan.json."""
    path = out / RECORD
    document: dict[str, Any] = (
        json.loads(path.read_text("utf-8")) if path.exists() else {"steps": {}}
    )
    document["steps"][made.ready.name] = describe_step(made.ready) | {
        "identity": identity,
        "spent": asdict(made.spent),
    }
    write_json(path, document)


def describe_step(ready: StepForecast) -> dict[str, Any]:
    """Returns what plan.json says about a step, as JSON values."""
    step = ready.step
    return {
        "label": step.label,
        "parent": step.parent,
        "adapter of": ready.origin.adapter,
        "note": ready.note,
        "shares": plain_value(step.shares),
        "parts of the mixture": step.parts,
        "examples": dict(ready.taken),
        "counts": {name: asdict(counts) for name, counts in ready.sources.items()},
        "groups": dict(zip(ready.groups.labels, ready.groups.sizes, strict=True))
        if ready.groups
        else None,
        "remarks": ready.remarks,
        "blocks of an epoch": {share.label: share._asdict() for share in ready.blocks.groups}
        if ready.blocks
        else None,
        "updates": ready.steps,
        "seen": {
            "examples": ready.examples,
            "tokens": ready.tokens,
            "supervised": ready.supervised,
        },
        "settings": record.settings(ready.stage),
    }


def _wait_for_processes(steps: Sequence[StepForecast]) -> None:
    """Waits until every process has looked into the plan's folder.

    A process that went ahead would begin a step that another one then takes for unfinished.
    """
    if process_count() > 1:
        import torch
        from accelerate import PartialState

        # accelerate keeps the device of the first PartialState of a process, so it must be the
        # trainer's.
        on_cpu = not torch.cuda.is_available() or steps[0].stage.device == "cpu"
        PartialState(cpu=on_cpu).wait_for_everyone()
