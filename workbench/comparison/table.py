"""Comparison: the table of all contenders, as values, as data for JSON, and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evaluation.benchmark_scores import is_lower_better
from evaluation.records.loss_cache import Entry
from workbench.comparison.contender import Contender

ROUNDING = 1e-5
"""Relative difference below which two losses count as equal: the same weights, loaded or composed,
or measured in other batches, differ by less."""


class Column(NamedTuple):
    """One kind of benchmark score.

    Scores on different numbers of examples are not comparable, so they are different columns.

    Attributes:
        task: name of the lm-eval task.
        metric: name of the metric.
        limit: examples per task, or None for all.
    """

    task: str
    metric: str
    limit: int | None

    @property
    def title(self) -> str:
        """The column's heading: "demo_cot acc, first 50"."""
        return f"{self.task} {self.metric}" + (
            "" if self.limit is None else f", first {self.limit}"
        )

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower score is better."""
        return is_lower_better(self.metric)


class Cell(NamedTuple):
    """A score, its standard error, its number of examples, and the suite it was measured with."""

    value: float
    stderr: float
    n: int
    suite: str


class Expense(NamedTuple):
    """The measured cost of one row, in wall seconds and in device seconds.

    Attributes:
        training_wall, training_device: trainings of all models that take part, each in full even if
            other rows use it too; None if one of them is not recorded.
        evaluation_wall, evaluation_device: losses and benchmarks of these weights, stopped ones
            included.
        unrecorded: names of the models whose training is not recorded.
    """

    training_wall: float | None
    training_device: float | None
    evaluation_wall: float
    evaluation_device: float
    unrecorded: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One contender and everything that is known about it.

    Attributes:
        contender: the contender.
        losses: dataset -> loss, or None if it was not measured.
        scores: column -> score, or None if it was not measured.
        expense: its cost.
    """

    contender: Contender
    losses: Mapping[str, Entry | None]
    scores: Mapping[Column, Cell | None]
    expense: Expense

    @property
    def mean(self) -> tuple[float, float] | None:
        """The unweighted mean loss of the datasets and its standard error; None if incomplete."""
        measured = [entry for entry in self.losses.values() if entry is not None]
        # A mean over fewer datasets cannot be compared with that of the other rows.
        if not measured or len(measured) < len(self.losses):
            return None
        # Errors of different datasets are independent, so their squares add up.
        error = math.sqrt(math.fsum(entry.stderr**2 for entry in measured))
        return math.fsum(entry.value for entry in measured) / len(measured), error / len(measured)

    @property
    def missing(self) -> tuple[str, ...]:
        """What was not measured, in words: "loss of cot", "demo_cot acc, first 50"."""
        losses = [f"loss of {name}" for name, entry in self.losses.items() if entry is None]
        return (*losses, *(column.title for column, cell in self.scores.items() if cell is None))


@dataclass(frozen=True)
class Comparison:
    """The table.

    Attributes:
        datasets: names of the datasets, each a column of losses.
        columns: the columns of scores.
        lines: the rows.
        notes: notes for the user about what is not in the table.
    """

    datasets: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """Name of the row -> what was not measured, for rows that lack something."""
        return {row.contender.name: row.missing for row in self.lines if row.missing}

    def as_rows(self) -> list[dict[str, Any]]:
        """Returns the rows for JSON; a value that was not measured or is not finite is null."""
        return [_data(row) for row in self.lines]

    def as_data(self) -> dict[str, Any]:
        """Returns the whole table for JSON."""
        columns = [column._asdict() for column in self.columns]
        return {
            "datasets": list(self.datasets),
            "columns": columns,
            "rows": self.as_rows(),
            "notes": list(self.notes),
        }

    def cells(self) -> list[list[str]]:
        """Returns the table as text, heading first; a dash marks what was not measured."""
        titles = [f"{column.title} ± s.e. (n)" for column in self.columns]
        mean = ["mean loss ± s.e."] if self.datasets else []
        losses = [*(f"{name} loss ± s.e." for name in self.datasets), *mean]
        heading = ["", *losses, *titles, "training s", "evaluation s"]
        return [heading, *(_cells(row) for row in self.lines)]


def best_positions(values: Sequence[float | None], lower: bool) -> frozenset[int]:
    """Returns the positions of the best values; several if they differ by rounding only.

    The result is empty if all values are equally good, because then none is best.

    >>> sorted(best_positions([0.5, None, 0.25, 0.25], lower=True))
    [2, 3]
    """
    # What max() makes of a NaN depends on the order of the values.
    finite = {
        position: value
        for position, value in enumerate(values)
        if value is not None and math.isfinite(value)
    }
    if not finite:
        return frozenset()
    top = (min if lower else max)(finite.values())
    best = frozenset(
        position for position, value in finite.items() if math.isclose(value, top, rel_tol=ROUNDING)
    )
    return best if len(best) < len(finite) else frozenset()


def _data(row: Row) -> dict[str, Any]:
    """Returns a row for JSON; a value that was not measured or is not finite is null."""
    from merging.recipe.formula import formula

    contender = row.contender
    named = {"name": contender.name, "kind": contender.kind, "formula": formula(contender.recipe)}
    return {
        **named,
        "digest": contender.recipe.digest,
        "folder": None if contender.folder is None else str(contender.folder),
        "losses": {
            name: None if entry is None else _finite(entry._asdict())
            for name, entry in row.losses.items()
        },
        "mean_loss": None
        if row.mean is None
        else _finite(dict(zip(("value", "stderr"), row.mean, strict=True))),
        "scores": [
            column._asdict() | _finite(cell._asdict())
            for column, cell in row.scores.items()
            if cell
        ],
        "cost": row.expense._asdict() | {"unrecorded": list(row.expense.unrecorded)},
        "missing": list(row.missing),
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values with None instead of NaN and infinities, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _cells(row: Row) -> list[str]:
    """Returns a row as text; a dash marks what was not measured."""
    losses = [
        "–" if entry is None else _text(entry.value, entry.stderr, 4)
        for entry in row.losses.values()
    ]
    losses += ["–" if row.mean is None else _text(*row.mean, 4)] if row.losses else []
    scores = [
        "–" if cell is None else f"{_text(cell.value, cell.stderr, 3)} ({cell.n})"
        for cell in row.scores.values()
    ]
    training = row.expense.training_device
    costs = [
        "–" if training is None else f"{training:,.1f}",
        f"{row.expense.evaluation_device:,.1f}",
    ]
    return [row.contender.name, *losses, *scores, *costs]


def _text(value: float, stderr: float, digits: int) -> str:
    # A single example has no standard error, and neither has a metric that is not a mean.
    return " ± ".join(
        "undefined" if math.isnan(number) else f"{number:.{digits}f}" for number in (value, stderr)
    )
