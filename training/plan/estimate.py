"""Everything that can be known of a plan before its first step: data read and counted, every refusal at once, the cost.

for step in estimate(Plan.read("plan.yml")):
    print(step.name, step.examples, step.tokens, step.steps)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from corpus import CorpusError, Record, nested
from corpus.grouping import Groups
from plumbing.strict_yaml import Keys
from training.batching import group_blocks
from training.batching.group_blocks import Report
from training.errors import TrainingError
from training.plan import finished_steps, material
from training.plan import sources as entries
from training.plan.faults import Faults
from training.plan.forecast import StepForecast, forecast
from training.plan.grouping import Grouping, States, numbers, weights
from training.plan.material import Lengths, Measure
from training.plan.model_checks import check_on_model
from training.plan.plan import Plan
from training.plan.schedules import Step, counts
from training.plan.settings import of_stage
from training.plan.step_origin import origins, refusal
from training.stage import Stage


@dataclass(frozen=True)
class _PlanContext:
    """What the steps of one plan are prepared from."""

    plan: Plan
    records: Mapping[Keys, Sequence[Record]]
    measure: Measure | None
    states: States | None
    processes: int
    faults: Faults

    def place_of(self, group_by: Mapping[str, Any]) -> Keys:
        """Where in the plan that very `group_by` stands."""
        return next(
            (*place, "group_by")
            for place, settings in self.plan.every_settings()
            if settings.get("group_by") is group_by
        )


def estimate(
    plan: Plan,
    out: Path | None = None,
    *,
    resume: bool = False,
    states: States | None = None,
    processes: int | None = None,
) -> list[StepForecast]:
    """The steps of a plan with their data and cost; nothing is trained or written.

    Args:
        plan: to be carried out.
        out: the folder where it would be; what stands there already is looked at.
        resume: whether unfinished steps there may go on.
        states: see training.plan.grouping.States.
        processes: how many will share each step; as the launcher of this process says, if None.

    Raises:
        PlanError: with everything that is wrong.
    """
    faults = Faults(plan.faults.file, plan.faults.lines)
    if processes is None:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
    bench = _PlanContext(
        plan,
        material.load_all(plan, faults),
        material.opened(plan, faults),
        states,
        processes,
        faults,
    )
    _measure_all(bench)
    steps = _steps(plan, faults)
    origin = origins(steps, _adapters(plan, steps))
    made = [_ready(step, bench) for step in steps]
    ready = [replace(one, origin=origin[one.name]) for one in made if one is not None]
    if out is not None:
        standing = finished_steps.standing(
            out, [(one.step, one.stage, one.origin) for one in ready], processes, resume, faults
        )
        ready = [replace(one, standing=standing[one.name]) for one in ready]
    faults.raise_any()
    check_on_model([(one.stage, one.longest) for one in ready if one.longest], faults)
    faults.raise_any()
    return ready


def _steps(plan: Plan, faults: Faults) -> list[Step]:
    """The plan's steps; says so when one cannot start from its parent."""
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


def _measure_all(bench: _PlanContext) -> None:
    """Tokenises every set under the plan's own limit, so that a fault is told of the source, not of each step."""
    for place, records in bench.records.items():
        if bench.measure is not None and place[0] in entries.SPLITS:
            try:
                bench.measure(records, bench.plan.settings.get("max_length"))
            except (CorpusError, TrainingError) as error:
                bench.faults.add(place, str(error))


def _ready(step: Step, bench: _PlanContext) -> StepForecast | None:
    """The step, or None when something stands in its way, which the faults then say."""
    settings = bench.plan.settings_of(step)
    needed: list[Keys] = [("sources", name) for name in (*step.shares, *settings.get("replay", ()))]
    if (settings.get("group_by") or {}).get("anchors"):
        needed.append((*bench.place_of(settings["group_by"]), "anchors"))
    if any(place not in bench.records for place in needed):
        return None  # the source's own fault says it all
    try:
        ready, indices = _assembled(step, settings, bench)
        return (
            ready
            if bench.measure is None
            else _measured(ready, indices, settings, bench, bench.measure)
        )
    except (CorpusError, TrainingError) as error:
        if not any(str(error) in message for message in bench.faults.messages):
            bench.faults.add(("schedule",), f"step {step.name}: {error}")
        return None


def _assembled(
    step: Step, settings: Mapping[str, Any], bench: _PlanContext
) -> tuple[StepForecast, dict[str, list[int]]]:
    """The step with its data, and which examples of each source those are."""
    whole = {name: bench.records["sources", name] for name in step.shares}
    taken = counts(step, {name: len(records) for name, records in whole.items()})
    indices = {
        name: picked(len(whole[name]), taken[name], bench.plan.subset_seed) for name in taken
    }
    stage = Stage(
        base=Path(bench.plan.base),
        examples=tuple(whole[name][at] for name, some in indices.items() for at in some),
        replay=tuple(
            record
            for name in settings.get("replay", ())
            for record in bench.records["sources", name]
        ),
        validation=_validation(step, bench),
        **of_stage(settings),
    )
    return StepForecast(step, stage, taken), indices


def _measured(
    ready: StepForecast,
    indices: Mapping[str, list[int]],
    settings: Mapping[str, Any],
    bench: _PlanContext,
    measure: Measure,
) -> StepForecast:
    """The step with its groups, its tokens and its steps."""

    def lengths(name: str) -> Lengths:
        return measure(bench.records["sources", name], settings.get("max_length"))

    parts = {name: material.select_lengths(lengths(name), some) for name, some in indices.items()}
    own = material.concat_lengths(parts.values())
    rehearsed = material.concat_lengths(lengths(name) for name in settings.get("replay", ()))
    stage, groups, report = _grouped(ready.stage, settings, own, bench)
    sources = {name: material.count_lengths(part) for name, part in parts.items()}
    return forecast(
        replace(ready, stage=stage, sources=sources, groups=groups, blocks=report),
        own,
        rehearsed,
        bench.processes,
    )


def _validation(step: Step, bench: _PlanContext) -> dict[str, tuple[Record, ...]]:
    """The sets that are named like a source of the step, and those that are named like no source."""
    return {
        name: tuple(bench.records["validation", name])
        for name in bench.plan.validation
        if ("validation", name) in bench.records
        and (name in step.shares or name not in bench.plan.sources)
    }


def _grouped(
    stage: Stage, settings: Mapping[str, Any], own: Lengths, bench: _PlanContext
) -> tuple[Stage, Groups | None, Report | None]:
    """The stage with its groups, where the settings ask for some."""
    if not settings.get("group_by"):
        if settings.get("group_weights"):
            raise TrainingError(
                "group_weights are given and group_by is not. Give it too, such as group_by: task."
            )
        return stage, None, None
    anchors = bench.records.get((*bench.place_of(settings["group_by"]), "anchors"), ())
    groups = Grouping(settings["group_by"], stage.base, anchors, bench.states)(stage.examples, own)
    given = settings.get("group_weights")
    weighted = weights(groups, given) if given else None
    block = stage.batch * stage.accumulation * bench.processes
    report = group_blocks.natural(groups.sizes, block, stage.leftover, groups.labels)
    if weighted:
        report = group_blocks.weighted(report, weighted, stage.leftover)
    return replace(stage, groups=numbers(groups, own), group_weights=weighted), groups, report


def picked(size: int, count: int, seed: int) -> list[int]:
    """Which of a source's examples make up `count`: all as often as that goes, the rest from nested subsets, in file order.

    >>> picked(3, 7, 0)[:6]
    [0, 1, 2, 0, 1, 2]
    """
    times, rest = divmod(count, size)
    return [*range(size)] * times + sorted(nested(size, Fraction(rest, size), seed))
