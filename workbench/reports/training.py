"""Trainings as plain text for the terminal, and as data for --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from plumbing.units import size
from workbench.reports.text_table import table

if TYPE_CHECKING:
    from training.plan.carry_out import Made
    from training.plan.forecast import StepForecast
    from workbench.plans.outlook import Outlook, StepOutlook

HEAD = ("step", "examples", "left out", "tokens", "supervised", "updates", "memory", "time")


def cells(line: StepOutlook) -> list[str]:
    """Returns one step of an outlook as texts, in the order of HEAD.

    The tokens are those that the step's updates process.
    """
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


def total(estimate: Outlook) -> str:
    """Returns one line on all steps: how many remain, their time, and what the time is based on."""
    todo = [line for line in estimate.lines if line.ready.standing != "done"]
    if not todo:
        return "every step is done already"
    done = len(estimate.lines) - len(todo)
    before = f", {done} more are done already" if done else ""
    steps = f"{len(todo)} step{'s' if len(todo) > 1 else ''} to train{before}"
    seconds = estimate.seconds
    if seconds is None:
        return (
            f"{steps}; how long they take could not be estimated: too few examples to time a step"
        )
    return f"{steps}: ≈ {duration(seconds)} ({'; '.join(estimate.sources)})"


def notes(estimate: Outlook) -> list[str]:
    """Returns the sentences on each step: why it must be trained anew, what its data lack."""
    return [sentence for line in estimate.lines for sentence in _sentences(line.ready)]


def _sentences(ready: StepForecast) -> list[str]:
    """Returns the note and the remarks on a step, each with its name."""
    note = [f"{ready.name} is {ready.note}."] if ready.note else []
    return [*note, *(f"{ready.name}: {remark}" for remark in ready.remarks)]


def outlook(estimate: Outlook) -> str:
    """Returns what each step of a plan takes, and all of them together."""
    return "\n".join(
        [table([list(HEAD), *map(cells, estimate.lines)]), total(estimate), *notes(estimate)]
    )


def outlook_as_data(estimate: Outlook) -> dict[str, Any]:
    """Returns an outlook as data for JSON."""
    return {"steps": [line.as_data() for line in estimate.lines], "seconds": estimate.seconds}


def made(steps: Sequence[Made]) -> str:
    """Returns a table of the finished steps, then the last validation losses and folder of each.

    A step that an earlier command trained shows "was there" in the place of its time.
    """
    rows = [["step", "updates", "loss", "tokens", "time"]]
    details = []
    for step in steps:
        # A point that was logged for its validation alone has no training loss.
        losses = [point.loss for point in step.curve if point.loss is not None]
        measured = [point for point in step.curve if point.validation]
        rows.append(
            [
                step.ready.name,
                f"{step.ready.steps:,}",
                f"{losses[-1]:.3f}" if losses else "-",
                f"{step.spent.tokens:,}",
                duration(step.spent.wall_seconds) if step.new else "was there",
            ]
        )
        # Validation losses and folders are of any length, so they are no columns of the table.
        if measured:
            details.append(f"{step.ready.name}: validation loss {measured[-1].validation_text()}")
        if step.new:
            details += [f"{step.ready.name}: {remark}" for remark in step.ready.remarks]
        details.append(f"{step.ready.name}: folder {step.folder}")
    return "\n".join([table(rows), *details])


def made_as_data(steps: Sequence[Made]) -> list[dict[str, Any]]:
    """Returns the finished steps as data for JSON, with all points of their curves."""
    return [
        {
            "step": step.ready.name,
            "label": step.ready.step.label,
            "parent": step.ready.step.parent,
            "folder": str(step.folder),
            "new": step.new,
            "remarks": step.ready.remarks,
            "spent": asdict(step.spent),
            "curve": [
                {key: value for key, value in point._asdict().items() if value not in (None, {})}
                for point in step.curve
            ],
        }
        for step in steps
    ]


def duration(seconds: float) -> str:
    """Returns a time as text: "4.2 s", "3 min 20 s" or "2 h 5 min"."""
    # 59.6 s would be shown as 60 s, and 9.96 s as 10.0 s.
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
