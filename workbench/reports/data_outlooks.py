"""What a question about data will cost, as cells of a table and as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plumbing.units import size
from workbench.reports.training import duration

if TYPE_CHECKING:
    from workbench.influence_runs.outlooks.data_outlook import DataOutlook, PartOutlook

HEAD = ("part", "examples", "tokens", "disk", "time")
NONE = "–"


def cells(part: PartOutlook) -> list[str]:
    """Returns one part of an outlook as texts, in the order of HEAD."""
    time = "?" if part.seconds is None else f"≈ {duration(part.seconds)}"
    return [
        part.name,
        NONE if part.examples is None else f"{part.examples:,}",
        NONE if part.tokens is None else f"{part.tokens:,}",
        size(part.disk) if part.disk else NONE,
        "done" if part.done else time,
    ]


def total(estimate: DataOutlook) -> str:
    """Returns one line on all parts: their time, their disk, and what the time is based on."""
    seconds = estimate.seconds
    time = (
        "how long it takes could not be estimated"
        if seconds is None
        else f"≈ {duration(seconds)} in all"
    )
    disk = f", {size(estimate.disk)} on the disk" if estimate.disk else ""
    return f"{time}{disk}. Times are estimates ({'; '.join(estimate.based_on)})."
