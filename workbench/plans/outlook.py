"""What a training takes, said before it starts: data, memory, and time from what was measured here before, or from timed steps."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus.counts import Counts
from training.plan.estimate import estimate
from training.plan.forecast import StepForecast
from training.run import memory, record
from training.run.memory import Need
from training.run.saved_state import State
from training.stage import Stage
from workbench.plans.speed import WAY, Speed, measured, shortened, timed

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from training.plan.plan import Plan


@dataclass(frozen=True)
class StepOutlook:
    """One step of a plan before it is trained.

    Attributes:
        ready: the step, its data and what these steps see.
        need: bytes on one device.
        speed: of its way of training; None where no step could be timed.
        left: updates that are not saved yet.
        validation: examples that are measured in all, each time counted.
    """

    ready: StepForecast
    need: Need
    speed: Speed | None
    left: int
    validation: int = 0

    @property
    def counts(self) -> Counts:
        """Of all its sources."""
        return functools.reduce(operator.add, self.ready.sources.values())

    @property
    def seconds(self) -> float | None:
        """About how long it takes from here; 0 for a step that is done."""
        if self.ready.standing == "done":
            return 0.0
        if self.speed is None:
            return None
        tokens = self.ready.tokens * self.left / self.ready.steps
        if self.speed.how == "timed":  # a forward pass is about a third of a step
            tokens += self.validation * self.ready.tokens / self.ready.examples / 3
        return tokens / self.speed.tokens_per_second + self.speed.fixed

    def as_data(self) -> dict[str, Any]:
        """For --json."""
        ready = self.ready
        return {
            "step": ready.name,
            "label": ready.step.label,
            "parent": ready.step.parent,
            "standing": ready.standing,
            "examples": self.counts.examples,
            "left_out_share": self.counts.dropped_share,
            "seen": {
                "examples": ready.examples,
                "tokens": ready.tokens,
                "supervised": ready.supervised,
            },
            "updates": ready.steps,
            "memory_bytes": self.need.total,
            "seconds": self.seconds,
            "seconds_are": self.speed.source if self.speed and ready.standing != "done" else None,
        }


@dataclass(frozen=True)
class Outlook:
    """A plan before it is trained, step by step."""

    lines: tuple[StepOutlook, ...]

    @property
    def seconds(self) -> float | None:
        """About how long all of it takes from here; None where a step's time is not known."""
        known = [line.seconds for line in self.lines]
        return None if None in known else sum(seconds for seconds in known if seconds is not None)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the times are known from, each once."""
        used = (
            line.speed.source for line in self.lines if line.speed and line.ready.standing != "done"
        )
        return tuple(dict.fromkeys(used))


def outlook(plan: Plan, out: Path, ledger: Ledger | None = None, *, resume: bool = True) -> Outlook:
    """Read the data, load the model once for each way of training, and say what each step takes; nothing is kept.

    Args:
        plan: to be carried out.
        out: the folder where it would be.
        ledger: what was trained before.
        resume: whether unfinished steps there may go on.

    Raises:
        PlanError: with everything that is wrong.
    """
    from workbench.plans.recorded_run import states

    steps = estimate(plan, out, resume=resume, states=states)
    try:
        needs, speeds = _needs(steps), _speeds(steps, ledger)
    finally:
        _give_back()
    return Outlook(
        tuple(
            StepOutlook(
                ready,
                needs[ready.name],
                speeds.get(_way(ready.stage)),
                _left(ready, out),
                _validated(ready),
            )
            for ready in steps
        )
    )


def _way(stage: Stage) -> str:
    settings = record.settings(stage)
    return json.dumps([stage.base.as_posix(), stage.device, *(settings[name] for name in WAY)])


def _by_way(steps: Sequence[StepForecast]) -> Iterator[list[StepForecast]]:
    """The steps of each way of training; the longest example comes first."""
    ways: dict[str, list[StepForecast]] = {}
    for ready in steps:
        ways.setdefault(_way(ready.stage), []).append(ready)
    for some in ways.values():
        yield sorted(some, key=lambda ready: -_longest(ready))


def _longest(ready: StepForecast) -> int:
    return ready.longest[0] if ready.longest else 0


def _needs(steps: Sequence[StepForecast]) -> dict[str, Need]:
    from training.run.setup import make_ready, quiet

    found = {}
    for some in _by_way(steps):
        stage, longest = some[0].stage, some[0].longest
        assert longest is not None  # estimate refuses a step of which nothing fits
        alone = replace(
            stage, examples=(longest[1],), replay=(), replay_share=0.0, batch=1, accumulation=1
        )
        with quiet():
            model = make_ready(shortened(alone, 1)).model
        for ready in some:
            found[ready.name] = memory.estimate(
                model,
                stage.batch,
                _longest(ready),
                bf16=stage.precision == "bf16",
                checkpointing=stage.checkpointing,
            )
    return found


def _left(ready: StepForecast, out: Path) -> int:
    if ready.standing != "begun":
        return ready.steps
    state = State(out / ready.name)
    return ready.steps - state.step(state.newest())


def _validated(ready: StepForecast) -> int:
    stage = ready.stage
    times = 1 + ready.steps // stage.evaluate_every if stage.evaluate_every else 1
    return times * sum(len(records) for records in stage.validation.values())


def _speeds(steps: Sequence[StepForecast], ledger: Ledger | None) -> dict[str, Speed]:
    found = {}
    for some in _by_way([ready for ready in steps if ready.standing != "done"]):
        stage = some[0].stage
        speed = (measured(stage, ledger) if ledger is not None else None) or timed(stage)
        if speed is not None:
            found[_way(stage)] = speed
    return found


def _give_back() -> None:
    """What torch keeps of an accelerator's memory would be missing in the process that trains."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
