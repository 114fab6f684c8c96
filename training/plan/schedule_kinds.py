"""The kinds of schedule that a plan may name: their keys, their steps, and how they are written.

    {kind: experts, sources: [math, code]}                          # one checkpoint per source
    {kind: mixing, shares: {math: 1, code: 1/4}}                    # one step on these shares
    {kind: mixing, parts: {math: 0.7, code: 0.3}, examples: 5000}   # one step on this mixture
    {kind: sequential, order: [code, math, general]}
    {kind: mixed_sequential, special: [code, math], general: [general]}
    {kind: dmt, special: [code, math], general: [general], k: [1/256, 1/64]}
    {kind: proportions, vary: [code, math], k: [1, 1/4], hold: {general: 1}, single: false}

Every kind takes `settings`, which override the plan's. Most take `each`: settings per source, or
for `special` and `general`. training.plan.schedule_reader reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from training.plan import schedules as schedule
from training.plan.schedules import Step
from training.plan.sources import plain_value

STAGES = ("special", "general")
"""The two stages of DMT and of mixed sequential training."""

DEFAULT_K = (Fraction(1, 256),)
"""The share k of DMT that the paper reports (arXiv 2310.05492, section 4)."""

KEYS: dict[str, dict[str, str]] = {
    "experts": {"sources": "names"},
    "mixing": {"shares": "shares", "parts": "shares", "examples": "count"},
    "sequential": {"order": "names"},
    "mixed_sequential": dict.fromkeys(STAGES, "names"),
    "dmt": dict.fromkeys(STAGES, "names") | {"k": "proportions"},
    "proportions": {"vary": "names", "k": "proportions", "hold": "shares", "single": "flag"},
}
"""Kind -> its keys -> the type of each, which is also the ScheduleReader method that reads it."""

NEEDED = {"sequential": ("order",), "mixed_sequential": STAGES, "dmt": STAGES}
"""Kind -> its keys without a default."""

Entry = Mapping[str, Any]
"""A schedule as `ScheduleReader.schedule` returns it.

It holds every key of its kind, sources as tuples of names, and shares as fractions.
"""


def steps(entry: Entry) -> list[Step]:
    """Returns the steps of one schedule."""
    over, own = entry["settings"], entry["each"]
    each = {name: merge_settings(over, own.get(name, {})) for name in owners(entry)}
    match entry["kind"]:
        case "experts":
            return schedule.experts(entry["sources"], each)
        case "mixing":
            parts = "parts" in entry
            shares = entry["parts" if parts else "shares"]
            return schedule.mixing(
                shares, parts=parts, examples=entry.get("examples"), settings=over
            )
        case "sequential":
            return schedule.sequential(entry["order"], each)
        case "mixed_sequential":
            return schedule.mixed_sequential(entry["special"], entry["general"], each)
        case "dmt":
            return schedule.dmt(entry["special"], entry["general"], entry["k"], each)
        case _:
            hold, single = entry["hold"], entry["single"]
            return schedule.proportions(
                entry["vary"], entry["k"], hold=hold, single=single, settings=over, each=each
            )


def merge_settings(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `settings` with `over` in their place where both have a key.

    A stage's length is given either by steps or by epochs, so each of the two replaces the other.

    >>> merge_settings({"epochs": 3, "rate": 1e-4}, {"steps": 100})
    {'rate': 0.0001, 'steps': 100}
    """
    length = {"steps", "epochs"}
    replaced = length if length & over.keys() else set()
    return {key: value for key, value in settings.items() if key not in replaced} | dict(over)


def schedule_yaml(entry: Entry) -> dict[str, Any]:
    """Returns the schedule as plain YAML values, which ScheduleReader reads as an equal one."""
    # Empty settings and `single: false` are the defaults.
    return {key: plain_value(value) for key, value in entry.items() if value not in ({}, False)}


def owners(entry: Entry) -> tuple[str, ...]:
    """Returns the names that `each` may hold settings for."""
    match entry["kind"]:
        case "experts":
            return tuple(entry["sources"])
        case "sequential":
            return tuple(entry["order"])
        case "mixed_sequential" | "dmt":
            return STAGES
        # Without `single`, a step has several sources, and none of them owns its settings.
        case "proportions" if entry["single"]:
            return tuple(entry["vary"])
    return ()
