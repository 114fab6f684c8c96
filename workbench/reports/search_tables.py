"""The result of a search as text."""

from collections.abc import Mapping, Sequence

from workbench.plots.bullets import Gain
from workbench.reports.text_table import table


def omegas(point: Mapping[str, float]) -> str:
    """Returns the ω of a point, one line each."""
    return table([["vector", "ω"], *([name, f"{omega:.4g}"] for name, omega in point.items())])


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


def prediction(r2: Mapping[str, float]) -> str:
    """Returns how well trials are predicted that were left out of the fit, in one line."""
    shown = ", ".join(f"{name} {value:.2f}" for name, value in r2.items() if value == value)
    return f"R² of the surrogate for trials left out: {shown}" if shown else ""
