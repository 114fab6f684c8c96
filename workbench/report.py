"""Results as plain text for the terminal, and as data for --json."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merging import method as merge_methods

if TYPE_CHECKING:
    from evaluation.harness import Score
    from evaluation.loss import Loss
    from merging import Geometry, Recipe
    from merging.preflight import Opened


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]))
    return "\n".join(line.rstrip() for line in lines)


def geometry(found: "Geometry") -> str:
    """Norms, cosines and relative distances per layer, as three tables."""
    cosines = found.cosine()
    distances = found.distance(relative=True)
    norms = found.distance(by="model")
    parts = [
        "Cosine of the distribution vectors, whole model",
        table([["", *found.vectors], *_rows(found.vectors, cosines, "undefined")]),
        "",
        "Distance from the base per layer, relative to the base's norm",
        table([["", *distances.columns], *_rows(distances.rows, distances.values, "undefined")]),
        "",
        "Norm of each vector, whole model",
        table([["", *norms.columns], *_rows(norms.rows, norms.values, "undefined")]),
    ]
    return "\n".join(parts)


def _rows(names: Sequence[str], values: np.ndarray, undefined: str) -> list[list[str]]:
    return [
        [name, *(undefined if math.isnan(value) else f"{value:.4f}" for value in row)]
        for name, row in zip(names, values.tolist(), strict=True)
    ]


def inspection(opened: "Opened", found: "Geometry | None") -> dict[str, Any]:
    """What `dem inspect` found, as data; undefined cosines are null."""
    result: dict[str, Any] = {
        "base": {
            "path": str(opened.base.path),
            "digest": opened.base.digest,
            "tensors": len(opened.base),
            "parameters": opened.base.numel,
        },
        "vectors": {
            name: {"path": str(vector.path), "digest": vector.digest, "tensors": len(vector)}
            for name, vector in opened.vectors.items()
        },
        "problems": [problem._asdict() for problem in opened.problems],
    }
    if found is not None:
        result["geometry"] = {
            "vectors": list(found.vectors),
            "cosine": _data(found.cosine()),
            "layers": found.layers,
            "cosine_by_layer": {layer: _data(found.cosine(layer)) for layer in found.layers},
            "distance_by_layer": _data(found.distance().values),
            "relative_distance_by_layer": _data(found.distance(relative=True).values),
        }
    return result


def _data(values: np.ndarray) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]


def losses(found: "Sequence[Loss]") -> str:
    """Loss per dataset with standard error and counts, and the mean."""
    rows = [["dataset", "loss", "± s.e.", "examples", "tokens"]]
    rows += [[row.dataset, f"{row.value:.4f}", f"{row.stderr:.4f}", str(row.n), str(row.tokens)] for row in found]
    mean = sum(row.value for row in found) / len(found)
    error = math.sqrt(sum(row.stderr**2 for row in found)) / len(found)
    rows.append(
        ["mean", f"{mean:.4f}", f"{error:.4f}", str(sum(row.n for row in found)), str(sum(row.tokens for row in found))]
    )
    return table(rows)


def scores(found: "Sequence[Score]") -> str:
    """Score per task with standard error and count."""
    rows = [["task", "metric", "score", "± s.e.", "n", "seconds"]]
    rows += [
        [row.task, row.metric, f"{row.value:.4f}", f"{row.stderr:.4f}", str(row.n), f"{row.seconds:.1f}"]
        for row in found
    ]
    return table(rows)


def of(recipe: "Recipe | None", target: str) -> dict[str, Any]:
    """What was measured."""
    if recipe is None:
        return {"folder": str(Path(target))}
    return {"recipe": recipe.to_yaml(), "digest": recipe.digest, "formula": recipe.formula()}


def methods() -> str:
    """Each merge method with its formula, source and parameters."""
    blocks = []
    for name in merge_methods.names():
        module = merge_methods.load(name)
        lines = [f"{name}: {module.FORMULA}", f"    {module.PAPER}", "    weight: ω of each model"]
        for param in merge_methods.parameters(name):
            span = "" if math.isinf(param.low) else f", {param.low:g} to {param.high:g}"
            lines.append(f"    {param.name} = {str(param.default).lower()}{span}: {param.help}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def methods_as_data() -> list[dict[str, Any]]:
    """The same, as data."""
    found = []
    for name in merge_methods.names():
        module = merge_methods.load(name)
        parameters = [
            {
                "name": param.name,
                "type": param.type.__name__,
                "default": param.default,
                "low": None if math.isinf(param.low) else param.low,
                "high": None if math.isinf(param.high) else param.high,
                "help": param.help,
            }
            for param in merge_methods.parameters(name)
        ]
        found.append({"name": name, "formula": module.FORMULA, "paper": module.PAPER, "parameters": parameters})
    return found
