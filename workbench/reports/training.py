"""Trainings as plain text for the terminal, and as data for --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from plumbing.units import size
from workbench.reports.tables import table

if TYPE_CHECKING:
    from training.plan.carry_out import Made
    from workbench.plans.outlook import Outlook, StepOutlook

HEAD = ("step", "examples", "left out", "tokens", "supervised", "updates", "memory", "time")


def cells(line: StepOutlook) -> list[str]:
    """One step of an outlook, in the order of HEAD; tokens are those that its updates see."""
    ready, counts = line.ready, line.counts
    time = (
        "done"
        if ready.standing == "done"
        else "?"
        if line.seconds is None
        else f"≈ {duration(line.seconds)}"
    )
    return [
        ready.name,
        f"{counts.examples:,}",
        f"{counts.dropped_share:.1%}",
        f"{ready.tokens:,}",
        f"{ready.supervised:,}",
        f"{ready.steps:,}",
        size(line.need.total),
        time,
    ]


def total(found: Outlook) -> str:
    """All steps together, and where the time is known from."""
    todo = [line for line in found.lines if line.ready.standing != "done"]
    if not todo:
        return "every step is done already"
    there = len(found.lines) - len(todo)
    before = f", {there} more are done already" if there else ""
    many = f"{len(todo)} step{'s' if len(todo) > 1 else ''} to train{before}"
    seconds = found.seconds
    if seconds is None:
        return f"{many}; how long they take could not be estimated: too few examples to time a step"
    return f"{many}: ≈ {duration(seconds)} ({'; '.join(found.sources)})"


def notes(found: Outlook) -> list[str]:
    """What should be known of single steps before they are trained."""
    return [f"{line.ready.name} is {line.ready.note}." for line in found.lines if line.ready.note]


def outlook(found: Outlook) -> str:
    """What each step takes, and all of them."""
    return "\n".join([table([list(HEAD), *map(cells, found.lines)]), total(found), *notes(found)])


def outlook_as_data(found: Outlook) -> dict[str, Any]:
    """The same for --json."""
    return {"steps": [line.as_data() for line in found.lines], "seconds": found.seconds}


def made(steps: Sequence[Made]) -> str:
    """What was trained, and what was there."""
    rows = [["step", "updates", "loss", "validation", "tokens", "time", "folder"]]
    for one in steps:
        losses = [point.loss for point in one.curve if point.loss is not None]
        measured = [point.validation for point in one.curve if point.validation]
        validation = (
            ", ".join(f"{name} {loss:.3f}" for name, loss in measured[-1].items())
            if measured
            else "-"
        )
        time = duration(one.spent.wall_seconds) if one.new else "was there"
        loss = f"{losses[-1]:.3f}" if losses else "-"
        rows.append(
            [
                one.ready.name,
                f"{one.ready.steps:,}",
                loss,
                validation,
                f"{one.spent.tokens:,}",
                time,
                str(one.folder),
            ]
        )
    return table(rows)


def made_as_data(steps: Sequence[Made]) -> list[dict[str, Any]]:
    """The same for --json."""
    return [
        {
            "step": one.ready.name,
            "label": one.ready.step.label,
            "parent": one.ready.step.parent,
            "folder": str(one.folder),
            "new": one.new,
            "spent": asdict(one.spent),
            "curve": [
                {key: value for key, value in point._asdict().items() if value not in (None, {})}
                for point in one.curve
            ],
        }
        for one in steps
    ]


def duration(seconds: float) -> str:
    """A time for a reader: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
