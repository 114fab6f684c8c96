"""The result of a search as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workbench.plots.bullets import Gain
from workbench.reports.text_table import table
from workbench.search.benchmark_points import ScoreRow
from workbench.search.outcome import Leaning

if TYPE_CHECKING:
    from evaluation.search import Trial


def omegas(point: Mapping[str, float]) -> str:
    """Returns the ω of a point, and other numbers that were searched, one line each."""
    return table([["searched", "best"], *([name, f"{omega:.4g}"] for name, omega in point.items())])


def gains(rows: Sequence[Gain]) -> str:
    """Returns what a composition gives on each dataset: losses, and the share of the gain."""
    lines = [["dataset", "base", "expert", "here", "share", "± s.e.", "examples"]]
    for row in rows:
        share = "–" if row.share is None else f"{100 * row.share:.1f} %"
        error = "–" if row.share_stderr is None else f"{100 * row.share_stderr:.1f}"
        expert = "–" if row.expert is None else f"{row.expert:.4f}"
        lines.append(
            [row.dataset, f"{row.base:.4f}", expert, f"{row.loss:.4f}", share, error, str(row.n)]
        )
    return table(lines)


def scores(rows: Sequence[ScoreRow]) -> str:
    """Returns what a composition gives on each task, beside the base."""
    lines = [["task", "metric", "base", "here", "± s.e. of the difference"]]
    for row in rows:
        numbers = [f"{value:.4f}" for value in (row.base, row.here, row.error)]
        lines.append([row.task, row.metric, *numbers])
    return table(lines)


def front(trials: Sequence[Trial]) -> str:
    """Returns the compositions of a front, one line each: the ω, and the losses."""
    if not trials or trials[0].measured is None:
        return "No composition kept the limits."
    lines = [[*trials[0].point, *(f"loss on {name}" for name in trials[0].measured.losses)]]
    for trial in trials:
        losses = trial.measured.losses.values() if trial.measured else ()
        lines.append(
            [*(f"{omega:.4g}" for omega in trial.point.values()), *(f"{x:.4f}" for x in losses)]
        )
    return table(lines)


def prediction(r2: Mapping[str, float], leaning: Leaning | None = None) -> str:
    """Returns how well compositions are predicted that were left out of the fit.

    Args:
        r2: dataset -> R² of its surrogate; NaN where it is not known.
        leaning: how far the search relied on the surrogates; None if it did not.
    """
    from evaluation.landscape.loss_surrogate import WEAK

    shown = ", ".join(f"{name} {value:.2f}" for name, value in r2.items() if value == value)
    lines = [f"R² of the surrogate for compositions left out: {shown}"] if shown else []
    if leaning and leaning.short:
        lines.append(
            f"Of {leaning.steps} steps {leaning.short} went half as far, because R² was below "
            f"{WEAK:g} for {', '.join(leaning.weak)}"
        )
    return "\n".join(lines)


def methods(rows: Mapping[str, tuple[float, Mapping[str, Sequence[Gain]]]]) -> str:
    """Returns the best of several merge methods, one line each.

    Args:
        rows: method -> its score, and what it gives on each dataset of each split.
    """
    splits = next(iter(rows.values()))[1]
    heads = [head for split in splits for head in (f"loss on {split}", f"share on {split}")]
    lines = [["method", "score", *heads]]
    for method, (score, tables) in rows.items():
        cells = []
        for table_of in tables.values():
            shares = [row.share for row in table_of if row.share is not None]
            cells.append(f"{sum(row.loss for row in table_of) / len(table_of):.4f}")
            cells.append(f"{100 * sum(shares) / len(shares):.1f} %" if shares else "–")
        lines.append([method, f"{score:.4f}", *cells])
    return table(lines)
