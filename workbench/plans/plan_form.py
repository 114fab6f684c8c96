"""What the fields of the train tab write into a plan's text; each change touches its own keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.plans import plan_text

CLUSTERS = 8
"""Groups by what examples are about, until the plan says another number."""


def sourced(text: str, paths: list[str]) -> str:
    """The plan on these sources; one that it has keeps its name, a new one gets its folder's or file's."""
    old = plan_text.document(text).get("sources")
    names = (
        {plan_text.path_of(entry): name for name, entry in old.items()}
        if isinstance(old, dict)
        else {}
    )
    chosen: dict[str, str] = {}
    for path in paths:
        chosen[names.get(path) or name_of(Path(path), {*names.values(), *chosen})] = path
    return plan_text.with_sources(text, chosen, validation(chosen))


def validation(sources: dict[str, str]) -> dict[str, str]:
    """Folders that hold a validation split as well."""
    return {
        name: path for name, path in sources.items() if (Path(path) / "validation.jsonl").is_file()
    }


def name_of(path: Path, taken: Any) -> str:
    """A source's name from its path: what a plan allows, and free."""
    stem = (
        "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in path.stem).strip(
            "-"
        )
        or "source"
    )
    stem = stem if stem[0].isalnum() else f"source{stem}"
    number, name = 1, stem
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def scheduled(
    text: str, _: Any, kind: str, special: list[str] | None, shares: str, k: str, single: bool
) -> str:
    """The plan in the order that the fields say."""
    names = list(plan_text.document(text).get("sources") or {})
    special = [name for name in special or () if name in names]
    schedule: dict[str, Any] = {"kind": kind}
    if kind == "sequential":
        schedule["order"] = names
    if kind in ("mixed_sequential", "dmt"):
        schedule |= {"special": special, "general": [name for name in names if name not in special]}
    if kind in ("dmt", "proportions") and (several := plan_text.numbers(k)):
        schedule["k"] = several if len(several) > 1 else several[0]
    if kind in ("mixing", "proportions") and (given := plan_text.shares(shares, names)):
        schedule["hold" if kind == "proportions" else "shares"] = given
    if kind == "proportions" and single:
        schedule["single"] = True
    return plan_text.with_schedule(text, schedule)


def lengthened(text: str, unit: str, length: float | None) -> str:
    """The plan with another length; steps drive out epochs and the other way round."""
    other = "steps" if unit == "epochs" else "epochs"
    value = None if length is None else int(length) if float(length).is_integer() else length
    return plan_text.with_settings(text, **{unit: value, other: None})


def adapted(text: str, rank: float | None) -> str:
    """The plan with an adapter of this rank, or none at 0; what it says of the adapter beside is kept."""
    settings = plan_text.document(text).get("settings")
    old = settings.get("lora") if isinstance(settings, dict) else None
    kept = old if isinstance(old, dict) else {}
    return plan_text.with_settings(text, lora={**kept, "rank": int(rank)} if rank else None)


def rate(value: str) -> Any:
    """A learning rate as a plan writes it; None for an empty field."""
    return (plan_text.numbers(value) or [None])[0]


def grouped(text: str, metric: str) -> str:
    """The plan with steps from one group each, by this metric; the metric's own keys are kept where it stays."""
    settings = plan_text.document(text).get("settings")
    old = settings.get("group_by") if isinstance(settings, dict) else None
    if isinstance(old, dict) and old.get("metric") == metric:
        return text
    new = {"metric": metric} | ({"count": CLUSTERS} if metric == "kmeans" else {})
    return plan_text.with_settings(text, group_by=new if metric else None, group_weights=None)


def metric(group_by: Any) -> str:
    """The metric of a plan's `group_by`; "" where it has none."""
    found = group_by.get("metric") if isinstance(group_by, dict) else group_by
    return found if found in ("task", "length", "kmeans") else ""
