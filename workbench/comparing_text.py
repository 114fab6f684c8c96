"""The rows of a comparison as data for JSON and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.comparing import Line


def data(line: Line) -> dict[str, Any]:
    """A row for JSON; null where nothing was measured, or where there is no number."""
    contender = line.contender
    named = {"name": contender.name, "kind": contender.kind, "formula": contender.recipe.formula()}
    return {
        **named,
        "digest": contender.recipe.digest,
        "folder": None if contender.folder is None else str(contender.folder),
        "losses": {name: None if found is None else _finite(found._asdict()) for name, found in line.losses.items()},
        "mean_loss": None if line.mean is None else _finite(dict(zip(("value", "stderr"), line.mean, strict=True))),
        "scores": [column._asdict() | _finite(found._asdict()) for column, found in line.scores.items() if found],
        "cost": line.expense._asdict() | {"unrecorded": list(line.expense.unrecorded)},
        "missing": list(line.missing),
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def cells(line: Line) -> list[str]:
    """A row as text; a dash where nothing was measured."""
    losses = ["–" if found is None else _text(found.value, found.stderr, 4) for found in line.losses.values()]
    losses += ["–" if line.mean is None else _text(*line.mean, 4)] if line.losses else []
    scores = [
        "–" if found is None else f"{_text(found.value, found.stderr, 3)} ({found.n})" for found in line.scores.values()
    ]
    training = line.expense.training_device
    costs = ["–" if training is None else f"{training:,.1f}", f"{line.expense.evaluation_device:,.1f}"]
    return [line.contender.name, *losses, *scores, *costs]


def _text(value: float, stderr: float, digits: int) -> str:
    return " ± ".join("undefined" if math.isnan(one) else f"{one:.{digits}f}" for one in (value, stderr))
