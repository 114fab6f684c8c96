"""Results as plain text for the terminal, and as data for --json."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.methods import _contract as merge_methods
from merging.recipe import recipe_yaml
from merging.recipe.formula import formula

if TYPE_CHECKING:
    from evaluation.harness import Score
    from evaluation.loss import Loss
    from merging import Geometry, Recipe
    from merging.analysis.rounding_cost import RoundingCost
    from merging.outputs.adapter_fit import Fit
    from merging.preflight import Opened


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        lines.append(
            "  ".join(
                [
                    first,
                    *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
                ]
            )
        )
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


def adapter(fit: "Fit") -> str:
    """Rank, norm and relative error of an adapter per layer and in all, then what is not in the adapter."""
    rows = [["layer", "tensors", "rank", "‖Δ‖", "relative error"]]
    for row in fit.by_layer():
        low, high = row.ranks
        ranks = str(low) if low == high else f"{low} to {high}"
        rows.append([row.layer, str(row.tensors), ranks, f"{row.norm:.4g}", f"{row.error:.2e}"])
    lines = [table(rows), f"relative error of what is in the adapter: {fit.error:.2e}"]
    lines += [
        f"not in the adapter: {part.kind} (tensors: {part.tensors}), {fit.share(part):.2%} of ‖Δ‖²"
        for part in fit.left_out
    ]
    if fit.left_out:
        lines.append(
            f"in all, {fit.missing:.2%} of ‖Δ‖² is not in the adapter: it holds matrices of linear modules only"
        )
    return "\n".join(lines)


def rounding(cost: "RoundingCost") -> str:
    """What the output dtype loses of a merge, per layer and in all, and the advice that follows."""
    found = cost.table()
    rows = [["layer", *found.columns]]
    for name, row in [
        *zip(found.rows, found.values.tolist(), strict=True),
        ("whole model", [*cost.total.values()]),
    ]:
        cells = [
            f"{value:.4f}" if kind == "cosine" else f"{value:.1%}"
            for kind, value in zip(found.columns, row, strict=True)
        ]
        rows.append(
            [
                name,
                *(
                    "undefined" if math.isnan(value) else cell
                    for cell, value in zip(cells, row, strict=True)
                ),
            ]
        )
    title = f"What {' and '.join(cost.dtypes)} loses of the merge's displacement"
    return "\n".join([title, table(rows), "", cost.advice()])


def rounding_as_data(cost: "RoundingCost") -> dict[str, Any]:
    """The same, as data; what is undefined is null."""
    found = cost.table()
    total = np.array([list(cost.total.values())])
    return {
        "dtypes": list(cost.dtypes),
        "columns": list(found.columns),
        "layers": list(found.rows),
        "values": _data(found.values),
        "total": _data(total)[0],
        "not_finite": int(cost.overflown.sum()),
        "advice": cost.advice(),
    }


def weights(found: "Mapping[str, Mapping[str, float | None]]") -> str:
    """Tensors down, models across: the ω in force, or "base" where a tensor is the base's whatever the ω."""
    models = list(next(iter(found.values()), {}))
    rows = [["tensor", *models]]
    rows += [
        [name, *("base" if row[model] is None else f"{row[model]:g}" for model in models)]
        for name, row in found.items()
    ]
    return table(rows)


def losses(found: "Sequence[Loss]") -> str:
    """Loss per dataset with standard error and counts, and the mean."""
    rows = [["dataset", "loss", "± s.e.", "examples", "tokens"]]
    rows += [
        [row.dataset, f"{row.value:.4f}", f"{row.stderr:.4f}", str(row.n), str(row.tokens)]
        for row in found
    ]
    mean = sum(row.value for row in found) / len(found)
    error = math.sqrt(sum(row.stderr**2 for row in found)) / len(found)
    rows.append(
        [
            "mean",
            f"{mean:.4f}",
            f"{error:.4f}",
            str(sum(row.n for row in found)),
            str(sum(row.tokens for row in found)),
        ]
    )
    return table(rows)


def scores(found: "Sequence[Score]") -> str:
    """Score per task with standard error and count."""
    rows = [["task", "metric", "score", "± s.e.", "n", "seconds"]]
    rows += [
        [
            row.task,
            row.metric,
            f"{row.value:.4f}",
            f"{row.stderr:.4f}",
            str(row.n),
            f"{row.seconds:.1f}",
        ]
        for row in found
    ]
    return table(rows)


def of(recipe: "Recipe | None", target: str) -> dict[str, Any]:
    """What was measured."""
    if recipe is None:
        return {"folder": str(Path(target))}
    return {"recipe": recipe_yaml(recipe), "digest": recipe.digest, "formula": formula(recipe)}


def methods() -> str:
    """Each merge method with its formula, source and parameters."""
    blocks = []
    for name in merge_methods.names():
        method = merge_methods.load(name)
        lines = [f"{name}: {method.formula}", f"    {method.paper}"]
        lines += ["    weight, per model: ω"] if method.weighted else []
        lines += [_parameter(param) for param in method.parameters]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _parameter(param: "merge_methods.Param") -> str:
    """One line: name, default, what it may be, what it is."""
    where = ", per model" if param.per_vector else ""
    default = "" if param.default is None else f" = {str(param.default).lower()}"
    if param.choices:
        may_be = f", {' or '.join(param.choices)}"
    else:
        may_be = "" if math.isinf(param.low) else f", {param.low:g} to {param.high:g}"
    return f"    {param.name}{default}{where}{may_be}: {param.help}"


def methods_as_data() -> list[dict[str, Any]]:
    """The same, as data."""
    found = []
    for name in merge_methods.names():
        method = merge_methods.load(name)
        parameters = [
            {
                "name": param.name,
                "type": param.type.__name__,
                "default": param.default,
                "low": None if math.isinf(param.low) else param.low,
                "high": None if math.isinf(param.high) else param.high,
                "choices": list(param.choices),
                "per_model": param.per_vector,
                "help": param.help,
            }
            for param in method.parameters
        ]
        least, most = method.vectors
        found.append(
            {
                "name": name,
                "formula": method.formula,
                "paper": method.paper,
                "models": {"least": least, "most": most},
                "weighted": method.weighted,
                "base": method.base_role,
                "scope": method.scope,
                "parameters": parameters,
            }
        )
    return found
