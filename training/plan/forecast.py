"""A step that can be run: what it trains on, and what that takes in updates, examples and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter

from corpus import Record
from corpus.counts import Counts
from corpus.grouping import Groups
from training.batching import order as batches
from training.batching.group_blocks import Report
from training.errors import TrainingError
from training.plan.finished_steps import Standing
from training.plan.material import Lengths
from training.plan.schedules import Step
from training.plan.step_origin import StepOrigin
from training.stage import Stage


@dataclass(frozen=True)
class StepForecast:
    """A step that can be run, as far as can be known: what it trains on and what that takes.

    Attributes:
        step: of the schedule.
        stage: what is run, on the plan's base; `origin` says what it starts from instead.
        taken: source -> examples of it.
        sources: source -> what these come to, as tokens; an example that comes twice counts twice.
        steps: optimiser steps.
        examples, tokens, supervised: what these steps see in all, each example as often as it comes.
        groups: CommonIT's groups of the examples that fit; None without group_by.
        blocks: what an epoch holds of each group; None without group_by.
        longest: most tokens of an example, of those that fit, and that example.
        standing: whether its folder is there already, or was begun; see training.plan.finished_steps.
        origin: see training.plan.step_origin.
    """

    step: Step
    stage: Stage
    taken: Mapping[str, int]
    sources: Mapping[str, Counts] = field(default_factory=dict)
    groups: Groups | None = None
    blocks: Report | None = None
    steps: int = 0
    examples: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: tuple[int, Record] | None = None
    standing: Standing = "new"
    origin: StepOrigin = field(default_factory=StepOrigin)

    @property
    def name(self) -> str:
        """The step's name, which is its folder's."""
        return self.step.name

    @property
    def note(self) -> str:
        """What is easily missed: an adapter on a step of the plan, whose vector is not relative to the plan's base."""
        if self.stage.lora is None or self.origin.base is None:
            return ""
        return f"an adapter on {self.origin.base}: its vector is relative to that step, not to the plan's base"


def forecast(ready: StepForecast, own: Lengths, rehearsed: Lengths, processes: int) -> StepForecast:
    """With the steps, and what they see.

    Raises:
        TrainingError: groups that do not fill the steps, or fewer examples than one step takes.
    """
    stage = ready.stage
    block = stage.batch * stage.accumulation * processes
    fitting = [at for at, tokens in enumerate(own.tokens) if tokens >= 0]
    if len(fitting) < block:
        raise TrainingError(
            f"{len(fitting)} examples do not fill one step of {block} (batch {stage.batch} · accumulation "
            f"{stage.accumulation} · {processes} process{'es' if processes > 1 else ''}). Give more examples, or a "
            "smaller batch or accumulation."
        )
    tokens, supervised = (
        [length for part in (own[kind], rehearsed[kind]) for length in part if length >= 0]
        for kind in (0, 1)
    )
    of = [stage.groups[at] for at in fitting] if stage.groups is not None else []
    order = batches.order(stage, tokens[: len(fitting)], tokens[len(fitting) :], of, processes)
    seen = [index for row in order.rows for index in row]
    return replace(
        ready,
        steps=order.steps,
        examples=len(seen),
        tokens=sum(tokens[index] for index in seen),
        supervised=sum(supervised[index] for index in seen),
        longest=max(
            zip(own.tokens + rehearsed.tokens, stage.examples + stage.replay, strict=True),
            key=itemgetter(0),
        ),
    )
