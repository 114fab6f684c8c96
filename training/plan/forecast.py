"""Forecasts a step of a plan: its data, and its number of updates, examples and tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from corpus import Record
from corpus.counts import Counts
from corpus.grouping import Groups
from plumbing.units import counted
from training.batching import order as batches
from training.batching.group_blocks import EpochBlocks
from training.errors import TrainingError
from training.plan.finished_steps import Standing
from training.plan.material import Lengths
from training.plan.schedules import Step
from training.plan.step_origin import StepOrigin
from training.run import memory
from training.stage import Stage


@dataclass(frozen=True)
class StepForecast:
    """A step that can be run, with everything that is known before it is trained.

    Attributes:
        step: the step of the schedule.
        stage: the stage to run, on the plan's base; `origin` tells what it starts from instead.
        taken: source -> number of its examples that the step takes.
        sources: source -> token counts of these examples; an example that comes twice counts twice.
        steps: number of optimiser steps.
        examples: number of examples that these steps process, each as often as it comes.
        tokens: number of tokens of these examples.
        supervised: number of these tokens that the loss counts.
        groups: CommonIT's groups of the examples that fit; None without group_by.
        blocks: the blocks of each group in an epoch; None without group_by.
        repeats: number of updates in which an example comes more than once, and how often one comes
            at most in one update.
        longest: number of tokens of the longest example that fits, and that example.
        standing: whether the step is new, begun or done; see training.plan.finished_steps.
        origin: the step whose weights or adapter it starts from; see training.plan.step_origin.
        by_samples: whether it was recognised as done or begun by samples of its base alone, because
            an earlier version recorded it.
    """

    step: Step
    stage: Stage
    taken: Mapping[str, int]
    sources: Mapping[str, Counts] = field(default_factory=dict)
    groups: Groups | None = None
    blocks: EpochBlocks | None = None
    steps: int = 0
    examples: int = 0
    tokens: int = 0
    supervised: int = 0
    repeats: tuple[int, int] = (0, 1)
    longest: tuple[int, Record] | None = None
    standing: Standing = "new"
    origin: StepOrigin = field(default_factory=StepOrigin)
    by_samples: bool = False

    @property
    def name(self) -> str:
        """The step's name, which is also the name of its folder."""
        return self.step.name

    @property
    def note(self) -> str:
        """Warnings, each the end of a sentence "NAME is …"; empty if there are none.

        That an adapter's vector is not relative to the plan's base, or that the record of a step
        does not cover every tensor that it started from.
        """
        notes = []
        if self.stage.lora is not None and self.origin.base is not None:
            notes.append(
                f"an adapter on {self.origin.base}: "
                "its vector is relative to that step, not to the plan's base"
            )
        if self.by_samples:
            notes.append(
                f"taken as {self.standing} by a digest of an earlier version, which covers samples "
                "of the weights that it started from, not every tensor; train it again in another "
                "folder to be sure"
            )
        return "; and ".join(notes)

    @property
    def remarks(self) -> list[str]:
        """What happens that a reader may not expect, a sentence each.

        Which examples are left out, cut or parts of chats, which teach no end, how groups fill
        their updates, which updates hold an example more than once, and whether it computes in a
        dtype that is slow here.
        """
        remarks = [
            f"source {name}: {counts.left_out}, too long."
            for name, counts in self.sources.items()
            if counts.dropped_too_long
        ]
        remarks += [
            f"source {name}: {counts.cut:,} of {counted(counts.examples, 'example')} are cut off "
            "at max_length, so the end of their answers is not learned."
            for name, counts in self.sources.items()
            if counts.cut
        ]
        remarks += [
            f"source {name}: {counts.parts:,} of {counted(counts.examples, 'example')} are single "
            "answers of chats, because the chat template of the base writes an answer in another "
            "way once the chat goes on."
            for name, counts in self.sources.items()
            if counts.parts
        ]
        remarks += [
            f"source {name}: no special token ends the last answer of {counts.endless:,} of "
            f"{counted(counts.examples, 'example')}, so the model does not learn to stop. Let "
            "chat_template.jinja of the base end an answer with a special token of its tokenizer; "
            "for prompts and completions, give the tokenizer an eos_token."
            for name, counts in self.sources.items()
            if counts.endless
        ]
        if self.blocks and (self.blocks.repeated or self.blocks.unused or self.blocks.mixed):
            remarks.append(f"an epoch has {self.blocks}.")
        updates, most = self.repeats
        if updates:
            advice = (
                "Take fewer groups, a smaller batch, or leftover: mix."
                if self.blocks
                else "Take more examples, or a smaller batch or accumulation."
            )
            remarks.append(
                f"{updates:,} of {self.steps:,} updates hold an example more than once, up to "
                f"{most} times, so they learn from fewer examples than the others. {advice}"
            )
        if self.stage.base_dtype == "bfloat16" and memory.computes_slowly(self.stage.device):
            remarks.append(
                "the CPU has no instructions for bfloat16, so on a base that is held in it an "
                "update takes about 20 times as long. Leave base_dtype out if memory allows."
            )
        return remarks


def forecast(ready: StepForecast, own: Lengths, rehearsed: Lengths, processes: int) -> StepForecast:
    """Completes `ready` with the number of updates and the examples and tokens they process.

    Args:
        ready: the step with its stage and data.
        own: lengths of the stage's examples.
        rehearsed: lengths of its replay examples.
        processes: number of processes that share each step.

    Raises:
        TrainingError: there are fewer examples than one step takes, or the groups cannot fill the
            steps.
    """
    stage = ready.stage
    block = stage.batch * stage.accumulation * processes
    fitting = [at for at, tokens in enumerate(own.tokens) if tokens >= 0]
    if len(fitting) < block:
        raise TrainingError(
            f"{len(fitting)} examples do not fill one step of {block} (batch {stage.batch} · "
            f"accumulation {stage.accumulation} · "
            f"{processes} process{'es' if processes > 1 else ''}). "
            "Give more examples, or a smaller batch or accumulation."
        )
    # The trainer never sees examples that are too long, so the order numbers only those that fit.
    tokens, supervised = (
        [length for part in (own[kind], rehearsed[kind]) for length in part if length >= 0]
        for kind in (0, 1)
    )
    group_of = [stage.groups[at] for at in fitting] if stage.groups is not None else []
    order = batches.order(
        stage, tokens[: len(fitting)], tokens[len(fitting) :], group_of, processes
    )
    processed = [index for row in order.rows for index in row]
    return replace(
        ready,
        steps=order.steps,
        examples=len(processed),
        tokens=sum(tokens[index] for index in processed),
        supervised=sum(supervised[index] for index in processed),
        repeats=_repeats(order, [*_used(stage.examples, own), *_used(stage.replay, rehearsed)]),
        # The length of a record that is too long is -1, so it is never the longest.
        longest=max(
            zip(own.tokens + rehearsed.tokens, stage.examples + stage.replay, strict=True),
            key=itemgetter(0),
        ),
    )


def _used(records: Sequence[Record], lengths: Lengths) -> list[int]:
    """Returns what identifies each record that fits; a source taken twice has the same ones."""
    return [
        id(record) for record, tokens in zip(records, lengths.tokens, strict=True) if tokens >= 0
    ]


def _repeats(order: batches.Order, used: Sequence[int]) -> tuple[int, int]:
    """Returns StepForecast.repeats; `used` are the identities that the order numbers."""
    rows = len(order.rows) // order.steps
    most = [
        max(Counter(used[index] for row in order.rows[at : at + rows] for index in row).values())
        for at in range(0, len(order.rows), rows)
    ]
    return sum(times > 1 for times in most), max(most)
