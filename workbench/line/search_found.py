"""What a search has found beyond what sliders and bars show: ω of groups of layers, and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import commands
from workbench.commands import display_path
from workbench.search import process
from workbench.search.layer_groups import DEPTHS, in_order
from workbench.search.wanted import AIM_WORDS, PERCENT, aim_value
from workbench.session.standing import PLAIN

if TYPE_CHECKING:
    from workbench.search.record import Progress
    from workbench.session.session import Session


def found(session: Session) -> dict[str, Any] | None:
    """Returns the best of the newest search, as JSON for a page; None if there is nothing to show.

    While the search runs it is the best so far, with the losses or scores that the search measures.

    Args:
        session: with open models.

    Returns:
        "recipe": where it is saved, its text and the command that exports it, or None if sliders
        show it; "groups" and "omegas": the groups of layers, and vector -> group -> ω, or None;
        "losses": split -> rows of datasets; "scores": title -> rows of tasks; "methods": rows of
        the merge method and of task arithmetic, searched with the same budget, or [].
    """
    record = process.newest(session)
    progress = record.progress() if record else None
    if record is None or progress is None or progress.losses is None:
        return None
    result = record.result() or {}
    groups = progress.groups
    return {
        "recipe": _recipe(session, Path(progress.recipe)) if progress.recipe else None,
        "groups": columns_of({each for own in groups.values() for each in own}) if groups else None,
        "omegas": groups,
        "losses": result.get("splits") or _losses_so_far(session, progress),
        "scores": result.get("benchmarks") or {},
        "methods": _methods(record.about(), progress.method, result),
    }


def _methods(about: Mapping[str, Any], method: str, result: Mapping[str, Any]) -> list[Any]:
    """Returns the best of a merge method and of task arithmetic, with the same budget."""
    plain = result.get(PLAIN.method)
    if not plain:
        return []
    aim = about["aim"]
    return [
        {
            "method": name,
            "aim": AIM_WORDS[aim],
            "percent": aim in PERCENT,
            "value": aim_value(aim, each["score"]),
            "losses": {
                split: math.fsum(row["loss"] for row in rows) / len(rows)
                for split, rows in each["splits"].items()
            },
        }
        for name, each in ((method, result), (PLAIN.method, plain))
    ]


def _recipe(session: Session, file: Path) -> dict[str, str] | None:
    """Returns where a recipe is, its text, and the command that makes a model folder of it."""
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return None
    out = session.workdir.export(file.stem[:12])
    return {
        "file": display_path(file),
        "name": file.name,
        "text": text,
        "merge": commands.merge(file, out),
    }


def columns_of(groups: Set[str]) -> list[str]:
    """Returns groups of layers in reading order."""
    return in_order(groups, "depth" if groups <= set(DEPTHS) else "part")


def _losses_so_far(session: Session, progress: Progress) -> dict[str, list[dict[str, Any]]]:
    """Returns the losses of the best while the search runs; {} for scores of tasks."""
    losses, data = progress.losses or {}, session.models.data
    if losses.keys() - data.keys():
        return {}
    return {"validation": [{"dataset": name, "loss": losses[name]} for name in data]}
