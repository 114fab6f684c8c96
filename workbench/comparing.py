"""All checkpoints and compositions side by side: losses, benchmark scores and cost, from what was measured before.

Nothing is measured here. What is missing is named, and workbench.comparing_job measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench import comparing_text
from workbench.contenders import Contender, contenders, parsed
from workbench.costs import recorded
from workbench.lossbook import Entry
from workbench.models import FULL
from workbench.spending import key

if TYPE_CHECKING:
    from evaluation.cost import Phase
    from evaluation.results import Run
    from merging.recipe import Recipe
    from workbench.session import Session


ROUNDING = 1e-5
"""Losses of the same weights, loaded and composed, or in other batches, differ by less than this share."""
LOWER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter")
"""The metrics of lm-eval that a good model scores low in."""


class Column(NamedTuple):
    """One kind of score. Scores on other numbers of examples are another column: they are not comparable."""

    task: str
    metric: str
    limit: int | None

    @property
    def title(self) -> str:
        """The column's heading: "demo_cot acc, first 50"."""
        return f"{self.task} {self.metric}" + ("" if self.limit is None else f", first {self.limit}")

    @property
    def lower_is_better(self) -> bool:
        """Whether a good model scores low."""
        return self.metric.partition(",")[0] in LOWER


class Score(NamedTuple):
    """A score with its standard error and count, and the suite that it was measured with."""

    value: float
    stderr: float
    n: int
    suite: str


class Expense(NamedTuple):
    """What one row cost, in seconds; all of it measured."""

    training_wall: float | None
    """Of all checkpoints that take part, each in full however often it is used; None where one is not recorded."""
    training_device: float | None
    evaluation_wall: float
    """Losses and benchmarks of these weights, also those that were stopped."""
    evaluation_device: float
    unrecorded: tuple[str, ...]
    """Names of checkpoints whose training is not recorded."""


@dataclass(frozen=True)
class Line:
    """One contender and all that is known of it."""

    contender: Contender
    losses: Mapping[str, Entry | None]
    scores: Mapping[Column, Score | None]
    expense: Expense

    @property
    def mean(self) -> tuple[float, float] | None:
        """The mean loss of the datasets, each counting alike, and its standard error; None while one is not measured."""
        found = [entry for entry in self.losses.values() if entry is not None]
        if not found or len(found) < len(self.losses):
            return None
        error = math.sqrt(math.fsum(entry.stderr**2 for entry in found))
        return math.fsum(entry.value for entry in found) / len(found), error / len(found)

    @property
    def missing(self) -> tuple[str, ...]:
        """What a job can measure, in words."""
        losses = [f"loss of {name}" for name, found in self.losses.items() if found is None]
        return (*losses, *(column.title for column, found in self.scores.items() if found is None))


@dataclass(frozen=True)
class Comparison:
    """The table."""

    datasets: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """By name of the row, what is not measured."""
        return {line.contender.name: line.missing for line in self.lines if line.missing}

    def as_rows(self) -> list[dict[str, Any]]:
        """The rows for JSON; null where nothing was measured, or where there is no number."""
        return [comparing_text.data(line) for line in self.lines]

    def as_data(self) -> dict[str, Any]:
        """All of it for JSON."""
        columns = [column._asdict() for column in self.columns]
        return {"datasets": list(self.datasets), "columns": columns, "rows": self.as_rows(), "notes": list(self.notes)}

    def cells(self) -> list[list[str]]:
        """The table as text, the heading first; a dash where nothing was measured."""
        titles = [f"{column.title} ± s.e. (n)" for column in self.columns]
        mean = ["mean loss ± s.e."] if self.datasets else []
        losses = [*(f"{name} loss ± s.e." for name in self.datasets), *mean]
        heading = ["", *losses, *titles, "training s", "evaluation s"]
        return [heading, *(comparing_text.cells(line) for line in self.lines)]


def compare(
    session: Session,
    rows: Sequence[Contender] | None = None,
    current: Recipe | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Put what is known side by side.

    Args:
        session: with open models.
        rows: what to compare; all that can be if not given.
        current: the composition that a page stands at, where `rows` are not given.
        notes: what a reader should know of the rows, where they are given.
    """
    standing = current or session.recipe(session.standing.omegas, session.standing.choice)
    chosen, notes = contenders(session, standing) if rows is None else (tuple(rows), tuple(notes))
    data = session.models.data
    keys = {contender.key for contender in chosen}
    scores = {column: known for column, known in _scores(reversed(session.runs(-1))).items() if keys & known.keys()}
    phases = session.ledger.phases()
    trained = _trained(phases)
    lines = tuple(
        Line(
            contender,
            {name: session.book.get(contender.identity, one.keys[FULL]) for name, one in data.items()},
            {column: known.get(contender.key) for column, known in scores.items()},
            _expense(contender, trained, [phase for phase in phases if phase.digest == contender.key]),
        )
        for contender in chosen
    )
    return Comparison(tuple(data), tuple(scores), lines, notes)


def best(values: Sequence[float | None], lower: bool) -> frozenset[int]:
    """The places of the best values, several where they differ by rounding; none where there is nothing to tell apart.

    >>> sorted(best([0.5, None, 0.25, 0.25], lower=True))
    [2, 3]
    """
    known = {place: value for place, value in enumerate(values) if value is not None and math.isfinite(value)}
    if not known:
        return frozenset()
    top = (min if lower else max)(known.values())
    found = frozenset(place for place, value in known.items() if math.isclose(value, top, rel_tol=ROUNDING))
    return found if len(found) < len(known) else frozenset()


def _scores(runs: Iterable[Run]) -> dict[Column, dict[str, Score]]:
    """By column, in the order in which they were first measured, and by composition the newest score.

    Args:
        runs: oldest first.
    """
    keys: dict[str, str] = {}
    found: dict[Column, dict[str, Score]] = {}
    for run in runs:
        if run.kind != "bench":
            continue
        if run.recipe_digest not in keys:
            keys[run.recipe_digest] = key(parsed(run.recipe_yaml))
        of_column = found.setdefault(Column(run.task, run.metric, run.limit), {})
        of_column[keys[run.recipe_digest]] = Score(run.value, run.stderr, run.n, run.suite)
    return found


def _trained(phases: Sequence[Phase]) -> dict[str, tuple[float, float]]:
    """Wall and device seconds of the last training that made a folder."""
    from evaluation.cost import trainings

    return {made.output: (made.wall_seconds, made.device_seconds) for made in trainings(phases) if made.output}


def _expense(contender: Contender, trained: Mapping[str, tuple[float, float]], phases: Sequence[Phase]) -> Expense:
    """Trainings by the folders that take part, and what was spent on evaluating these weights."""
    folders = _folders(contender)
    spent = {name: trained.get(str(folder)) or _beside(folder) for name, folder in folders.items()}
    unknown = tuple(name for name, seconds in spent.items() if seconds is None)
    sums = [math.fsum(seconds[part] for seconds in spent.values() if seconds) for part in (0, 1)]
    training: list[float | None] = [None, None] if unknown else [*sums]
    evaluated = [phase for phase in phases if phase.kind in ("evaluation", "merging")]
    walls, devices = ([getattr(phase, name) for phase in evaluated] for name in ("wall_seconds", "device_seconds"))
    return Expense(training[0], training[1], math.fsum(walls), math.fsum(devices), unknown)


def _folders(contender: Contender) -> dict[str, Path]:
    """The folders whose training went into a contender, by name; of an export those that its recipe names."""
    from merging.recipe import Recipe

    recipe = contender.recipe
    if contender.kind == "export" and contender.folder is not None:
        recipe = Recipe.read(contender.folder / "recipe.yml")
    base = None if recipe.base is None else Path(recipe.base).resolve()
    taking = [source for source in recipe.models if recipe.omegas[source.name] != 0.0]
    places = {source.name: Path(source.location).resolve() for source in taking}
    return {name: place for name, place in places.items() if place != base}


def _beside(folder: Path) -> tuple[float, float] | None:
    """What the training.json beside the weights says that they cost; None where it says nothing."""
    found = recorded(folder)
    return None if found is None else (found.wall_seconds, found.device_seconds)
