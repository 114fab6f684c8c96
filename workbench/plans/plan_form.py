"""Writes the fields of the train tab into a plan's text; each field changes only its own keys."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from workbench.plans import plan_text

CLUSTERS = 8
"""Default number of k-means groups, used until the plan gives another number."""


class ScheduleFields(NamedTuple):
    """The fields of the train tab that decide the schedule, in the order of the form.

    Attributes:
        kind: kind of schedule; see training.plan.schedule_kinds.
        special: names of the sources that have a role of their own (DMT, mixed sequential).
        shares: text such as "math 1, code 1/4".
        k: one or more shares as text, separated by commas or spaces.
        single: whether `proportions` trains on each source alone instead of all together.
    """

    kind: str
    special: Collection[str] | None
    shares: str
    k: str
    single: bool


def set_sources(text: str, paths: list[str], holds: Callable[[Path], bool]) -> str:
    """Returns the plan with exactly these sources.

    A source that the plan already has keeps its name. A new one is named after its folder or file.

    Args:
        text: the plan.
        paths: of the sources.
        holds: tells whether the page may read a file.
    """
    old = plan_text.document(text).get("sources")
    names = (
        {plan_text.path_of(entry): name for name, entry in old.items()}
        if isinstance(old, dict)
        else {}
    )
    # A source that stays must keep its name, because schedule and settings refer to it by name.
    chosen: dict[str, str] = {}
    for path in paths:
        chosen[names.get(path) or source_name(Path(path), {*names.values(), *chosen})] = path
    return plan_text.with_sources(text, chosen, validation_sources(chosen, holds))


def validation_sources(sources: dict[str, str], holds: Callable[[Path], bool]) -> dict[str, str]:
    """Returns those sources whose folder also holds a validation split that the page may read."""
    # A path comes from the page, which must not learn what exists outside the allowed folders.
    files = {name: Path(path) / "validation.jsonl" for name, path in sources.items()}
    return {name: sources[name] for name, file in files.items() if holds(file) and file.is_file()}


def source_name(path: Path, taken: Collection[str]) -> str:
    """Returns a name for the source at this path that a plan allows and that is not taken yet."""
    stem = (
        "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in path.stem).strip(
            "-"
        )
        or "source"
    )
    # Names of sources become names of folders, so a plan wants a letter or a digit first.
    stem = stem if stem[0].isalnum() else f"source{stem}"
    number, name = 1, stem
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def set_schedule(text: str, fields: ScheduleFields) -> str:
    """Returns the plan with the schedule that the fields describe.

    Raises:
        SessionError: `shares` has a part that is not a source with its share.
        PlanError: the text is not YAML.
    """
    kind = fields.kind
    names = list(plan_text.document(text).get("sources") or {})
    # The field may still hold a source that was removed meanwhile.
    special = [name for name in fields.special or () if name in names]
    schedule: dict[str, Any] = {"kind": kind}
    if kind == "sequential":
        schedule["order"] = names
    if kind in ("mixed_sequential", "dmt"):
        schedule |= {"special": special, "general": [name for name in names if name not in special]}
    if kind in ("dmt", "proportions") and (values := plan_text.parse_numbers(fields.k)):
        schedule["k"] = values if len(values) > 1 else values[0]
    if kind in ("mixing", "proportions") and (
        shares := plan_text.parse_shares(fields.shares, names)
    ):
        schedule["hold" if kind == "proportions" else "shares"] = shares
    if kind == "proportions" and fields.single:
        schedule["single"] = True
    return plan_text.with_schedule(text, schedule)


def set_length(text: str, unit: str, length: float | None) -> str:
    """Returns the plan with another length. Setting steps removes epochs, and vice versa."""
    other = "steps" if unit == "epochs" else "epochs"
    # A number box may give 3.0, and a plan's steps are whole numbers.
    value = None if length is None else int(length) if float(length).is_integer() else length
    return plan_text.with_settings(text, **{unit: value, other: None})


def set_adapter_rank(text: str, rank: float | None) -> str:
    """Returns the plan with a LoRA adapter of this rank, or without an adapter if the rank is 0.

    The other LoRA settings of the plan are kept.
    """
    settings = plan_text.document(text).get("settings")
    old = settings.get("lora") if isinstance(settings, dict) else None
    kept = old if isinstance(old, dict) else {}
    return plan_text.with_settings(text, lora={**kept, "rank": int(rank)} if rank else None)


def parse_rate(value: str) -> Any:
    """Returns a learning rate as a plan writes it, or None if the field is empty."""
    return (plan_text.parse_numbers(value) or [None])[0]


def set_group_metric(text: str, metric: str) -> str:
    """Returns the plan with its batches grouped by this metric; "" turns grouping off.

    If the plan already uses this metric, it is returned unchanged, so that the keys of the metric
    are kept.
    """
    settings = plan_text.document(text).get("settings")
    old = settings.get("group_by") if isinstance(settings, dict) else None
    if isinstance(old, dict) and old.get("metric") == metric:
        return text
    # Group weights belong to the groups of the old metric, so they go with it.
    new = {"metric": metric} | ({"count": CLUSTERS} if metric == "kmeans" else {})
    return plan_text.with_settings(text, group_by=new if metric else None, group_weights=None)


def group_metric(group_by: Any) -> str:
    """Returns the metric of a plan's `group_by`, or "" if it has none that the form can show."""
    metric = group_by.get("metric") if isinstance(group_by, dict) else group_by
    return metric if metric in ("task", "length", "kmeans") else ""
