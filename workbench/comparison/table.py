"""Comparison: the table of all rows, as values, as data for JSON, and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from workbench.comparison.contender import Contender
from workbench.session.loss_cache import Entry

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
        return f"{self.task} {self.metric}" + (
            "" if self.limit is None else f", first {self.limit}"
        )

    @property
    def lower_is_better(self) -> bool:
        """Whether a good model scores low."""
        return self.metric.partition(",")[0] in LOWER


class Cell(NamedTuple):
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
class Row:
    """One contender and all that is known of it."""

    contender: Contender
    losses: Mapping[str, Entry | None]
    scores: Mapping[Column, Cell | None]
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
    lines: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """By name of the row, what is not measured."""
        return {line.contender.name: line.missing for line in self.lines if line.missing}

    def as_rows(self) -> list[dict[str, Any]]:
        """The rows for JSON; null where nothing was measured, or where there is no number."""
        return [_data(line) for line in self.lines]

    def as_data(self) -> dict[str, Any]:
        """All of it for JSON."""
        columns = [column._asdict() for column in self.columns]
        return {
            "datasets": list(self.datasets),
            "columns": columns,
            "rows": self.as_rows(),
            "notes": list(self.notes),
        }

    def cells(self) -> list[list[str]]:
        """The table as text, the heading first; a dash where nothing was measured."""
        titles = [f"{column.title} ± s.e. (n)" for column in self.columns]
        mean = ["mean loss ± s.e."] if self.datasets else []
        losses = [*(f"{name} loss ± s.e." for name in self.datasets), *mean]
        heading = ["", *losses, *titles, "training s", "evaluation s"]
        return [heading, *(_cells(line) for line in self.lines)]


def best(values: Sequence[float | None], lower: bool) -> frozenset[int]:
    """The places of the best values, several where they differ by rounding; none where there is nothing to tell apart.

    >>> sorted(best([0.5, None, 0.25, 0.25], lower=True))
    [2, 3]
    """
    known = {
        place: value
        for place, value in enumerate(values)
        if value is not None and math.isfinite(value)
    }
    if not known:
        return frozenset()
    top = (min if lower else max)(known.values())
    found = frozenset(
        place for place, value in known.items() if math.isclose(value, top, rel_tol=ROUNDING)
    )
    return found if len(found) < len(known) else frozenset()


def _data(line: Row) -> dict[str, Any]:
    """A row for JSON; null where nothing was measured, or where there is no number."""
    from merging.recipe.formula import formula

    contender = line.contender
    named = {"name": contender.name, "kind": contender.kind, "formula": formula(contender.recipe)}
    return {
        **named,
        "digest": contender.recipe.digest,
        "folder": None if contender.folder is None else str(contender.folder),
        "losses": {
            name: None if found is None else _finite(found._asdict())
            for name, found in line.losses.items()
        },
        "mean_loss": None
        if line.mean is None
        else _finite(dict(zip(("value", "stderr"), line.mean, strict=True))),
        "scores": [
            column._asdict() | _finite(found._asdict())
            for column, found in line.scores.items()
            if found
        ],
        "cost": line.expense._asdict() | {"unrecorded": list(line.expense.unrecorded)},
        "missing": list(line.missing),
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _cells(line: Row) -> list[str]:
    """A row as text; a dash where nothing was measured."""
    losses = [
        "–" if found is None else _text(found.value, found.stderr, 4)
        for found in line.losses.values()
    ]
    losses += ["–" if line.mean is None else _text(*line.mean, 4)] if line.losses else []
    scores = [
        "–" if found is None else f"{_text(found.value, found.stderr, 3)} ({found.n})"
        for found in line.scores.values()
    ]
    training = line.expense.training_device
    costs = [
        "–" if training is None else f"{training:,.1f}",
        f"{line.expense.evaluation_device:,.1f}",
    ]
    return [line.contender.name, *losses, *scores, *costs]


def _text(value: float, stderr: float, digits: int) -> str:
    return " ± ".join(
        "undefined" if math.isnan(one) else f"{one:.{digits}f}" for one in (value, stderr)
    )
