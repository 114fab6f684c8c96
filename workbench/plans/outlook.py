"""Outlook: the data, memory and time that a plan needs, estimated before it starts.

Times come from earlier trainings in the ledger, or from a few steps that are timed.
"""

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
from training.plan.model_checks import stage_of_one
from training.run import memory, record
from training.run.memory import Need
from training.run.saved_state import State
from training.run.shared import Shared
from training.stage import Stage
from workbench.plans.speed import WAY, Speed, speed_from_ledger, time_steps

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from training.plan.plan import Plan


@dataclass(frozen=True)
class StepOutlook:
    """The outlook of one step of a plan.

    Attributes:
        ready: the forecast of the step: its stage, its data and what its updates process.
        need: memory in bytes on one device.
        speed: how fast steps with these settings train; None if none could be timed.
        left: updates that are not in a saved state yet.
        validation: validation examples to measure, counted once per evaluation.
    """

    ready: StepForecast
    need: Need
    speed: Speed | None
    left: int
    validation: int = 0

    @property
    def counts(self) -> Counts:
        """The examples and tokens of all sources of the step together."""
        return functools.reduce(operator.add, self.ready.sources.values())

    @property
    def seconds(self) -> float | None:
        """Estimated seconds to its end; 0 if it is done, None if the speed is not known."""
        if self.ready.standing == "done":
            return 0.0
        if self.speed is None:
            return None
        tokens = self.ready.tokens * self.left / self.ready.steps
        # A recorded speed has validation in its fixed part; timed steps ran without any. A forward
        # pass takes about a third of a training step.
        if self.speed.how == "timed":
            tokens += self.validation * self.ready.tokens / self.ready.examples / 3
        return tokens / self.speed.tokens_per_second + self.speed.fixed

    def as_data(self) -> dict[str, Any]:
        """Returns the step as data for --json."""
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
            "remarks": ready.remarks,
            "memory_bytes": self.need.total,
            "seconds": self.seconds,
            "seconds_are": self.speed.source if self.speed and ready.standing != "done" else None,
        }


@dataclass(frozen=True)
class Outlook:
    """The outlook of a plan: one StepOutlook per step, in the order of the plan."""

    lines: tuple[StepOutlook, ...]

    @property
    def seconds(self) -> float | None:
        """Estimated seconds to the end of the plan; None if the time of a step is not known."""
        times = [line.seconds for line in self.lines]
        return None if None in times else sum(seconds for seconds in times if seconds is not None)

    @property
    def sources(self) -> tuple[str, ...]:
        """How the times of the steps that are not done were found, each source once."""
        used = (
            line.speed.source for line in self.lines if line.speed and line.ready.standing != "done"
        )
        return tuple(dict.fromkeys(used))


def outlook(plan: Plan, out: Path, ledger: Ledger | None = None, *, resume: bool = True) -> Outlook:
    """Returns the outlook of a plan. It reads the data and loads the model, but writes nothing.

    The model is loaded once, and once more for each way of training that is timed.

    Args:
        plan: the plan.
        out: the folder of the run.
        ledger: holds earlier trainings; None to time steps in any case.
        resume: whether unfinished steps in `out` may be continued.

    Raises:
        PlanError: the plan cannot be carried out; it lists everything that is wrong.
    """
    from workbench.plans.recorded_run import states

    shared = Shared()
    steps = estimate(plan, out, resume=resume, states=states, shared=shared)
    try:
        needs = _needs(steps, shared)
        # Timing loads the base anew, as each full fine-tune does, and two take more memory than it.
        del shared
        speeds = _speeds(steps, ledger)
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
    """Returns a key of the base, the device and the settings on which the speed depends."""
    # JSON, because a setting such as lora is a dictionary, which cannot be a key itself.
    settings = record.settings(stage)
    return json.dumps([stage.base.as_posix(), stage.device, *(settings[name] for name in WAY)])


def _by_way(steps: Sequence[StepForecast]) -> Iterator[list[StepForecast]]:
    """Yields the steps that train at one speed, the step with the longest example first."""
    ways: dict[str, list[StepForecast]] = {}
    for ready in steps:
        ways.setdefault(_way(ready.stage), []).append(ready)
    for some in ways.values():
        yield sorted(some, key=lambda ready: -_longest(ready))


def _longest(ready: StepForecast) -> int:
    """Returns the tokens of the longest example of a step."""
    return ready.longest[0] if ready.longest else 0


def _needs(steps: Sequence[StepForecast], shared: Shared) -> dict[str, Need]:
    """Returns step name -> memory; one model is set up for all steps of one way of training."""
    from training.run.setup import quiet, set_up

    needs = {}
    for some in _by_way(steps):
        stage, longest = some[0].stage, some[0].longest
        assert longest is not None  # estimate refuses a step of which nothing fits
        # The model is set up for its sizes only, so a batch of one example is enough. It is the
        # longest one, because that one decides the memory of a batch.
        alone = replace(stage_of_one(stage, longest[1]), batch=1, accumulation=1)
        with quiet():
            model = set_up(alone, shared, trains=False).model
        for ready in some:
            needs[ready.name] = memory.estimate(
                model,
                *memory.batch_shape(stage, [_longest(ready)] * stage.batch),
                bf16=memory.in_bfloat16(stage, stage.device),
                checkpointing=stage.checkpointing,
                averages=memory.averages(stage.optimiser),
            )
    return needs


def _left(ready: StepForecast, out: Path) -> int:
    """Returns the number of updates that are not in a saved state yet."""
    if ready.standing != "begun":
        return ready.steps
    state = State(out / ready.name)
    return ready.steps - state.step(state.newest())


def _validated(ready: StepForecast) -> int:
    """Returns the number of validation examples, counted once per evaluation."""
    stage = ready.stage
    # The last update is evaluated once, whether it is a multiple of evaluate_every or not.
    times = 1 + (ready.steps - 1) // stage.evaluate_every if stage.evaluate_every else 1
    return times * sum(len(records) for records in stage.validation.values())


def _speeds(steps: Sequence[StepForecast], ledger: Ledger | None) -> dict[str, Speed]:
    """Returns way of training -> speed, for the steps that are not done."""
    speeds = {}
    # Timing a step loads a model, so nothing is timed for steps that are done.
    for some in _by_way([ready for ready in steps if ready.standing != "done"]):
        stage = some[0].stage
        speed = (speed_from_ledger(stage, ledger) if ledger is not None else None) or time_steps(
            stage
        )
        if speed is not None:
            speeds[_way(stage)] = speed
    return speeds


def _give_back() -> None:
    """Returns torch's cached accelerator memory to the driver."""
    import torch

    # The training runs in another process, which could not use what this one keeps cached.

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
