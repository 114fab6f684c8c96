"""Estimates a plan before its first step: loads and counts its data and reports every fault.

for step in estimate(read_plan("plan.yml")):
    print(step.name, step.examples, step.tokens, step.steps)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from corpus import CorpusError, Record, nested
from corpus.grouping import Groups
from plumbing.strict_yaml import Keys
from training.batching import group_blocks
from training.batching.group_blocks import EpochBlocks
from training.errors import TrainingError
from training.plan import finished_steps, material
from training.plan import sources as entries
from training.plan.faults import Faults
from training.plan.forecast import StepForecast, forecast
from training.plan.grouping import Grouping, States, group_numbers, group_weights
from training.plan.material import Lengths, Measure
from training.plan.model_checks import check_on_model
from training.plan.plan import Plan
from training.plan.schedules import Step, counts
from training.plan.settings import stage_arguments
from training.plan.step_origin import origins, refusal
from training.run.launch import process_count
from training.run.shared import Shared
from training.stage import Stage


@dataclass(frozen=True)
class _PlanContext:
    """Everything that the steps of one plan are prepared from.

    Attributes:
        plan: the plan.
        records: keys of a source in the plan -> its records; sources with faults are missing.
        measure: counts tokens with the base's tokenizer; None if the base has faults.
        states: computes hidden states for `encoder: states`; None if that is not possible here.
        processes: number of processes that share each step.
        faults: gets everything that is wrong.
    """

    plan: Plan
    records: Mapping[Keys, Sequence[Record]]
    measure: Measure | None
    states: States | None
    processes: int
    faults: Faults

    def keys_of(self, group_by: Mapping[str, Any]) -> Keys:
        """Returns the keys of a `group_by` in the plan."""
        # Compared by identity: two schedules may have equal values at different keys.
        return next(
            (*keys, "group_by")
            for keys, settings in self.plan.every_settings()
            if settings.get("group_by") is group_by
        )


def estimate(
    plan: Plan,
    out: Path | None = None,
    *,
    resume: bool = False,
    states: States | None = None,
    processes: int | None = None,
    shared: Shared | None = None,
) -> list[StepForecast]:
    """Returns the steps of a plan with their data and cost; nothing is trained or written.

    Args:
        plan: the plan.
        out: the folder in which the plan would be carried out. Finished and unfinished steps in it
            are taken into account. None if there is no such folder.
        resume: whether unfinished steps in `out` may continue.
        states: computes hidden states; see training.plan.grouping.States.
        processes: number of processes that will share each step. If None, it is what a launcher
            has started; see training.run.launch.
        shared: keeps the tokens and the base for the training; nothing is kept if None.

    Raises:
        PlanError: with everything that is wrong.
        TrainingError: a launcher has started processes that cannot find each other.
    """
    # A collection of its own, because the same plan may be estimated again.
    faults = Faults(plan.faults.file, plan.faults.lines)
    if processes is None:
        processes = process_count()
    shared = Shared() if shared is None else shared
    context = _PlanContext(
        plan,
        material.load_all(plan, faults),
        material.open_measure(plan, shared, faults),
        states,
        processes,
        faults,
    )
    context = _measure_all(context)
    steps = _steps(plan, faults)
    origin_of = origins(steps, _adapters(plan, steps))
    prepared = [_prepare(step, context) for step in steps]
    forecasts = [
        replace(step, origin=origin_of[step.name]) for step in prepared if step is not None
    ]
    if out is not None:
        standing_of = finished_steps.standing(
            out,
            [(step.step, step.stage, step.origin) for step in forecasts],
            processes,
            resume,
            faults,
        )
        forecasts = [replace(step, standing=standing_of[step.name]) for step in forecasts]
        faults.raise_any()  # only a sound record can be asked for more
        forecasts = [
            replace(step, by_samples=finished_steps.by_samples(out, step.name))
            if step.standing != "new"
            else step
            for step in forecasts
        ]
    # The model is loaded last, because that takes longest; cheaper faults are reported first.
    faults.raise_any()
    longest = [(step.stage, step.longest) for step in forecasts if step.longest]
    check_on_model(longest, shared, faults)
    faults.raise_any()
    return forecasts


def _steps(plan: Plan, faults: Faults) -> list[Step]:
    """Returns the plan's steps, and reports each that cannot start from its parent."""
    try:
        steps = plan.steps
    except TrainingError as error:
        faults.add(("schedule",), str(error))
        return []
    adapters = _adapters(plan, steps)
    for step in steps:
        if message := refusal(step, adapters):
            faults.add(("schedule",), message)
    return steps


def _adapters(plan: Plan, steps: Sequence[Step]) -> dict[str, Mapping[str, Any] | None]:
    return {step.name: plan.settings_of(step).get("lora") for step in steps}


def _measure_all(context: _PlanContext) -> _PlanContext:
    """Tokenises every set under the plan's own limit, and splits chats that need several examples.

    So a fault is reported once for its source, and not once for each step that uses the source.
    """
    if context.measure is None:
        return context
    split = dict(context.records)
    # Anchors are only encoded as vectors, so they stay as they are, and no limit applies to them.
    for keys, records in context.records.items():
        if keys[0] in entries.SPLITS:
            try:
                split[keys] = context.measure.split(records)
            except CorpusError as error:
                context.faults.add(keys, str(error))
                del split[keys]
                continue
            try:
                context.measure(split[keys], context.plan.settings)
            except TrainingError as error:
                context.faults.add(keys, str(error))
    return replace(context, records=split)


def _prepare(step: Step, context: _PlanContext) -> StepForecast | None:
    """Returns the forecast of a step; None if it has faults, which are then in `context.faults`."""
    settings = context.plan.settings_of(step)
    needed: list[Keys] = [("sources", name) for name in (*step.shares, *settings.get("replay", ()))]
    if (settings.get("group_by") or {}).get("anchors"):
        needed.append((*context.keys_of(settings["group_by"]), "anchors"))
    if any(keys not in context.records for keys in needed):
        return None  # the fault of the source is already reported
    try:
        ready, indices = _assemble(step, settings, context)
        return (
            ready
            if context.measure is None
            else _measure_step(ready, indices, settings, context, context.measure)
        )
    except (CorpusError, TrainingError) as error:
        # The same fault may already be reported for the step's source.
        if not any(str(error) in message for message in context.faults.messages):
            context.faults.add(("schedule",), f"step {step.name}: {error}")
        return None


def _assemble(
    step: Step, settings: Mapping[str, Any], context: _PlanContext
) -> tuple[StepForecast, dict[str, list[int]]]:
    """Returns the step with its data, and the indices of the examples taken from each source."""
    whole = {name: context.records["sources", name] for name in step.shares}
    taken = counts(step, {name: len(records) for name, records in whole.items()})
    seed = context.plan.subset_seed
    indices = {name: pick_indices(len(whole[name]), taken[name], seed) for name in taken}
    stage = Stage(
        base=Path(context.plan.base),
        examples=tuple(whole[name][at] for name, chosen in indices.items() for at in chosen),
        replay=tuple(
            record
            for name in settings.get("replay", ())
            for record in context.records["sources", name]
        ),
        validation=_validation(step, context),
        **stage_arguments(settings),
    )
    return StepForecast(step, stage, taken), indices


def _measure_step(
    ready: StepForecast,
    indices: Mapping[str, list[int]],
    settings: Mapping[str, Any],
    context: _PlanContext,
    measure: Measure,
) -> StepForecast:
    """Completes a step with its groups, its tokens and its number of updates."""

    def lengths(name: str) -> Lengths:
        return measure(context.records["sources", name], settings)

    parts = {
        name: material.select_lengths(lengths(name), chosen) for name, chosen in indices.items()
    }
    own = material.concat_lengths(parts.values())
    rehearsed = material.concat_lengths(lengths(name) for name in settings.get("replay", ()))
    stage, groups, report = _group(ready.stage, settings, own, context)
    sources = {name: material.count_lengths(part) for name, part in parts.items()}
    return forecast(
        replace(ready, stage=stage, sources=sources, groups=groups, blocks=report),
        own,
        rehearsed,
        context.processes,
    )


def _validation(step: Step, context: _PlanContext) -> dict[str, tuple[Record, ...]]:
    """Returns the step's validation sets.

    They have the name of one of the step's sources, or a name that no source of the plan has.
    """
    return {
        name: tuple(context.records["validation", name])
        for name in context.plan.validation
        if ("validation", name) in context.records
        and (name in step.shares or name not in context.plan.sources)
    }


def _group(
    stage: Stage, settings: Mapping[str, Any], own: Lengths, context: _PlanContext
) -> tuple[Stage, Groups | None, EpochBlocks | None]:
    """Returns the stage with groups, the groups and their blocks; None twice without group_by."""
    if not settings.get("group_by"):
        if settings.get("group_weights"):
            raise TrainingError(
                "group_weights are given and group_by is not. Give it too, such as group_by: task."
            )
        return stage, None, None
    anchors = context.records.get((*context.keys_of(settings["group_by"]), "anchors"), ())
    grouping = Grouping(settings["group_by"], stage.base, anchors, context.states)
    groups = grouping(stage.examples, own)
    weight_of = settings.get("group_weights")
    weights = group_weights(groups, weight_of) if weight_of else None
    block = stage.batch * stage.accumulation * context.processes
    report = group_blocks.count_blocks(groups.sizes, block, stage.leftover, groups.labels)
    if weights:
        report = group_blocks.distribute_blocks(report, weights, stage.leftover)
    grouped = replace(stage, groups=group_numbers(groups, own), group_weights=weights)
    return grouped, groups, report


def pick_indices(size: int, count: int, seed: int) -> list[int]:
    """Chooses `count` of a source's `size` examples, in file order.

    All examples come as often as `count` allows, and a nested subset provides the rest. So a
    smaller count is contained in a larger one.

    Args:
        size: number of examples of the source.
        count: number of examples to choose; may be larger than `size`.
        seed: seed of the nested subsets.

    >>> pick_indices(3, 7, 0)[:6]
    [0, 1, 2, 0, 1, 2]
    """
    times, rest = divmod(count, size)
    return [*range(size)] * times + sorted(nested(size, Fraction(rest, size), seed))
