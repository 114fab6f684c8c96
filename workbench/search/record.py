"""The folder of a search that runs in a process of its own: how far it is, and whether it lives."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbing.atomic import write_whole
from workbench.processes import RUNNING, running_process
from workbench.search.outcome import front_of, trial_row
from workbench.session.standing import PLAIN, Choice, Value

if TYPE_CHECKING:
    from evaluation.search import Trial
    from workbench.search.running import Search
    from workbench.session.workdir import Workdir

PROGRESS, RESULT, LOG = "progress.json", "result.json", "search.log"
"""Files of the folder: how far the search is, what `dem search --json` wrote, what it printed."""
ABOUT, TRIALS = "about.json", "trials.jsonl"
"""What is searched for, as the page has begun it; and trials that its other tables do not list."""


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        spent: evaluations so far.
        budget: the most evaluations.
        trials: compositions so far.
        score: the best score in words, such as "mean share 61.2 %"; "" before the first one.
        omegas: the best ω so far, by vector; None before the first one, and if a vector has
            several, for groups of layers.
        problem: why the search ended early, or what to know of its result; "" if nothing.
        groups: vector -> group of layers -> its best ω so far; None if each vector has one.
        losses: dataset or task -> the loss of the best, or the score of a task with its sign so
            that lower is better; None before the first one.
        recipe: the file of the best recipe so far, if `groups` are given; else "".
        front: how many compositions no other one beats on every dataset; 0 for other aims.
        method, parameters: the merge method of the best so far, as a page has it; see Choice.
    """

    spent: float
    budget: int
    trials: int = 0
    score: str = ""
    omegas: dict[str, float] | None = None
    problem: str = ""
    groups: dict[str, dict[str, float]] | None = None
    losses: dict[str, float] | None = None
    recipe: str = ""
    front: int = 0
    method: str = PLAIN.method
    parameters: dict[str, Value] = field(default_factory=dict)


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

        for name in (PROGRESS, TRIALS):
            (self.folder / name).unlink(missing_ok=True)
        write_whole(self.folder / RUNNING, json.dumps([pid, psutil.Process(pid).create_time()]))

    def end(self) -> None:
        """Notes that the process searches no more."""
        (self.folder / RUNNING).unlink(missing_ok=True)

    def write(self, progress: Progress) -> None:
        """Replaces the progress."""
        write_whole(self.folder / PROGRESS, json.dumps(asdict(progress)))

    def write_problem(self, problem: str) -> None:
        """Replaces what there is to know of the progress."""
        if progress := self.progress():
            self.write(replace(progress, problem=problem))

    def write_step(self, search: Search, workdir: Workdir) -> None:
        """Replaces the progress by that of a running search.

        Args:
            search: the search.
            workdir: gets the best recipe, if sliders cannot show it.
        """
        best = search.best
        at_bounds = ", ".join(search.at_bounds())
        hint = f"ω of {at_bounds} is at its bound; a wider range may help." if at_bounds else ""
        groups = search.region.coordinates.omegas(best.point) if best else {}
        alike = all(len(set(own.values())) == 1 for own in groups.values())
        composed = search.recipe_of(best) if best else None
        recipe = "" if alike or not composed else str(workdir.save_recipe(composed))
        choice = Choice.of(composed.method, dict(composed.parameters)) if composed else PLAIN
        self.write(
            Progress(
                spent=search.spent,
                budget=search.wanted.budget,
                trials=len(search.searcher.trials) if search.searcher else 0,
                score=search.wanted.words(best.score) if best else "",
                omegas={name: next(iter(own.values())) for name, own in groups.items()}
                if best and alike
                else None,
                problem=search.problem or hint,
                groups=None if alike else groups,
                losses=dict(best.measured.losses) if best and best.measured else None,
                recipe=recipe,
                front=len(front_of(search)) if search.wanted.aim == "front" else 0,
                method=choice.method,
                parameters=dict(choice.parameters),
            )
        )

    def add_trial(self, search: Search, trial: Trial) -> None:
        """Keeps a trial, if the list of measured sums of vectors does not have it.

        That list has neither ω of groups of layers, nor scores of tasks, nor other merge methods.
        """
        coordinates = search.region.coordinates
        if coordinates.is_sum and not (coordinates.by or search.wanted.bench):
            return
        if row := trial_row(search, trial):
            with (self.folder / TRIALS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def trials(self) -> list[dict[str, Any]]:
        """Returns the trials that were kept, the best first; see trial_row."""
        try:
            text = (self.folder / TRIALS).read_text("utf-8")
        except FileNotFoundError:
            return []
        # The search may be writing the last line just now.
        rows = [json.loads(line) for line in text.split("\n")[:-1]]
        return sorted(rows, key=lambda row: float(row["score"]))

    def about(self) -> dict[str, Any]:
        """Returns what is searched for; {} if nothing was begun here."""
        try:
            return dict(json.loads((self.folder / ABOUT).read_text("utf-8")))
        except (OSError, ValueError):
            return {}

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
