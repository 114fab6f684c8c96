"""The folder of a search that runs in a process of its own: how far it is, and whether it lives."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbing.atomic import write_whole
from workbench.processes import RUNNING, running_process

if TYPE_CHECKING:
    from workbench.search.running import Search

PROGRESS, RESULT, LOG = "progress.json", "result.json", "search.log"
"""Files of the folder: how far the search is, what `dem search --json` wrote, what it printed."""


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        spent: evaluations so far.
        budget: the most evaluations.
        trials: compositions so far.
        score: the best score in words, such as "mean share 61.2 %"; "" before the first one.
        omegas: the best ω so far, by vector; {} before the first one.
        problem: why the search ended early, or what to know of its result; "" if nothing.
    """

    spent: float
    budget: int
    trials: int = 0
    score: str = ""
    omegas: dict[str, float] | None = None
    problem: str = ""


class SearchRecord:
    """One folder of a search; written by the search, read by the page.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self, pid: int) -> None:
        """Notes that a process searches now, which has measured nothing yet."""
        import psutil

        (self.folder / PROGRESS).unlink(missing_ok=True)
        write_whole(self.folder / RUNNING, json.dumps([pid, psutil.Process(pid).create_time()]))

    def end(self) -> None:
        """Notes that the process searches no more."""
        (self.folder / RUNNING).unlink(missing_ok=True)

    def write(self, progress: Progress) -> None:
        """Replaces the progress."""
        write_whole(self.folder / PROGRESS, json.dumps(asdict(progress)))

    def write_step(self, search: Search) -> None:
        """Replaces the progress by that of a running search."""
        best = search.best
        count = len(search.searcher.trials) if search.searcher else 0
        at_bounds = ", ".join(search.at_bounds())
        hint = f"ω of {at_bounds} is at its bound; a wider range may help." if at_bounds else ""
        self.write(
            Progress(
                search.spent,
                search.wanted.budget,
                count,
                search.wanted.words(best.score) if best else "",
                dict(best.point) if best else None,
                search.problem or hint,
            )
        )

    def progress(self) -> Progress | None:
        """Returns the last progress; None before the first one."""
        try:
            return Progress(**json.loads((self.folder / PROGRESS).read_text("utf-8")))
        except (OSError, ValueError, TypeError):  # not there yet, or of another version
            return None

    def result(self) -> dict[str, Any] | None:
        """Returns what the search wrote at its end; None before it."""
        try:
            return dict(json.loads((self.folder / RESULT).read_text("utf-8")))
        except (OSError, ValueError):
            return None

    @property
    def pid(self) -> int | None:
        """The process that searches; None if none does."""
        return running_process(self.folder)

    def tail(self) -> str:
        """Returns the last line that the process printed; "" if it printed nothing."""
        try:
            lines = (self.folder / LOG).read_text("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
