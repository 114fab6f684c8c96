"""Carries out a plan: its steps one after the other, each into a folder of its own; what is there already is used again.

run_plan(Plan.read("plan.yml"), Path("trained"))

trained/code.math/              a checkpoint with its training.json, and so for every step
trained/code.math--general/
trained/plan.yml                the plan that was carried out last
trained/plan.json               every step that the folder holds: parent, counts, cost
"""

from __future__ import annotations

import json
import os
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
from training.run.record import CurvePoint
from training.run.saved_state import write_json


class Moment(NamedTuple):
    """Where a plan stands while it is carried out."""

    step: str
    """Name of the step that is being trained."""
    number: int
    """Of the step, from 1, among all."""
    of: int
    """Steps of the plan."""
    done: int
    """Updates of the weights in this step."""
    updates: int
    """Updates of this step in all."""
    loss: float
    """Last training loss, nats per supervised token."""
    share: float
    """Tokens seen so far of all that are to be trained now, 0 to 1: about the share of the time."""


Progress = Callable[[Moment], None]


@dataclass(frozen=True)
class Made:
    """A step that is done.

    Attributes:
        ready: the step, what it trained on, and what that takes.
        folder: the checkpoint.
        spent: what it cost, whenever that was.
        curve: its losses.
        new: trained now, and not there before.
    """

    ready: StepForecast
    folder: Path
    spent: Spent
    curve: tuple[CurvePoint, ...]
    new: bool


@dataclass(frozen=True)
class Watching:
    """Who is told of a plan's progress, and who may stop it.

    Attributes:
        progress: called as the training goes.
        should_stop: asked after every update; True saves the state and ends.
        on_log: called with the name of a step and each point of its curve.
        on_step: called with each step that was trained now, when it is done: a ledger writes its cost.
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

    A step that two plans share is trained once, when both are carried out in the same folder. Each step starts from
    its parent (see training.plan.step_origin), with a fresh optimiser and a schedule of its own. Started by `accelerate launch`, every
    process calls this; the main one writes and reports.

    Args:
        plan: what to train.
        out: the folder of all its steps; may be there.
        progress, should_stop, on_log, on_step: see Watching.
        resume: go on with a step that was begun and not finished. Steps that are done never need this.
        states: see training.plan.grouping.States.

    Returns:
        Every step of the plan in order, those that were there included.

    Raises:
        PlanError: with everything that is wrong in the plan, its sources and its folders; nothing was trained.
        Stopped: should_stop said so; what is done is kept.
    """
    watching = Watching(progress, should_stop, on_log, on_step)
    steps = estimate(plan, out, resume=resume, states=states)
    if _is_main():
        out.mkdir(parents=True, exist_ok=True)
        (out / PLAN).write_text(plan_yaml(plan), "utf-8")
    _meet(steps)
    identities = finished_steps.plan_identities(
        [(ready.step, ready.stage) for ready in steps], _processes()
    )
    total = sum(ready.tokens for ready in steps if ready.standing != "done")
    before, made = 0, []
    for number, ready in enumerate(steps, start=1):
        one = _there(ready, out) if ready.standing == "done" else None
        if one is None:
            if should_stop():
                raise TrainingStopped(
                    f"stopped before step {number} of {len(steps)}, {ready.name}. What is done is kept."
                )
            clock = _Clock(ready, number, len(steps), before, total)
            one = _train(ready, out, watching, clock)
            before += ready.tokens
        if _is_main():
            _record(out, one, identities[ready.name])
        if one.new:
            on_step(one)
        made.append(one)
    return made


class _Clock(NamedTuple):
    """Turns the updates of one step into a moment of the plan."""

    ready: StepForecast
    number: int
    of: int
    before: int
    """Tokens of the steps that were trained before this one."""
    total: int

    def moment(self, done: int, updates: int, loss: float) -> Moment:
        share = (self.before + self.ready.tokens * done / updates) / self.total
        return Moment(self.ready.name, self.number, self.of, done, updates, loss, share)


def _train(ready: StepForecast, out: Path, watching: Watching, clock: _Clock) -> Made:
    folder = out / ready.name
    trained: Trained = run(
        ready.origin.of(ready.stage, out),
        folder,
        lambda done, updates, loss: watching.progress(clock.moment(done, updates, loss)),
        resume=True,  # what was begun has been looked at; another process of this run may have begun it just now
        should_stop=watching.should_stop,
        on_log=lambda point: watching.on_log(ready.name, point),
    )
    return Made(ready, folder, trained.spent, trained.curve, new=True)


def _there(ready: StepForecast, out: Path) -> Made:
    """A step that is done, read back.

    Raises:
        TrainingError: its parent was missing and has been trained anew, and came out otherwise.
    """
    folder = out / ready.name
    document = json.loads((folder / record.NAME).read_text("utf-8"))
    placed = ready.origin.of(ready.stage, out)
    for name, start in (("base", placed.base), ("adapter", placed.adapter)):
        known = document.get(name) or {"identity": None}
        if start is not None and known["identity"] != record.identity(start):
            raise TrainingError(
                f"{folder} was trained from other weights than {start} now holds. Move one of the two away."
            )
    curve = tuple(CurvePoint(**point) for point in document["curve"])
    return Made(ready, folder, Spent(**document["spent"]), curve, new=False)


def _record(out: Path, made: Made, identity: str) -> None:
    """Adds a step to plan.json."""
    path = out / RECORD
    known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"steps": {}}
    known["steps"][made.ready.name] = described(made.ready) | {
        "identity": identity,
        "spent": asdict(made.spent),
    }
    write_json(path, known)


def described(ready: StepForecast) -> dict[str, Any]:
    """A step as plan.json holds it, and as a table before the start shows it."""
    step = ready.step
    return {
        "label": step.label,
        "parent": step.parent,
        "adapter of": ready.origin.adapter,
        "note": ready.note,
        "shares": plain_value(step.shares),
        "parts of the mixture": step.parts,
        "examples": dict(ready.taken),
        "counts": {name: asdict(one) for name, one in ready.sources.items()},
        "groups": dict(zip(ready.groups.labels, ready.groups.sizes, strict=True))
        if ready.groups
        else None,
        "updates": ready.steps,
        "seen": {
            "examples": ready.examples,
            "tokens": ready.tokens,
            "supervised": ready.supervised,
        },
        "settings": record.settings(ready.stage),
    }


def _meet(steps: Sequence[StepForecast]) -> None:
    """Waits for the other processes: one that went ahead would begin a step while another still looks what is there."""
    if _processes() > 1:
        import torch
        from accelerate import PartialState

        on_cpu = not torch.cuda.is_available() or steps[0].stage.device == "cpu"
        PartialState(cpu=on_cpu).wait_for_everyone()


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
