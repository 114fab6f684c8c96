"""Results as plain text for the terminal, and as data for --json."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.methods import _contract as merge_methods
from merging.recipe import recipe_yaml
from merging.recipe.formula import formula
from plumbing.units import counted
from workbench.reports.text_table import table

if TYPE_CHECKING:
    from evaluation.benchmark_scores import Score
    from evaluation.loss import Loss
    from merging import Geometry, Recipe
    from merging.analysis.rounding_cost import RoundingCost
    from merging.methods._values import Param
    from merging.outputs.adapter_fit import Fit
    from merging.preflight import Opened


def verdict(opened: "Opened") -> str:
    """Returns one line that says whether the models of a preflight can be merged.

    The problems themselves are printed before it; without any, this line is all that is said.
    """
    count = {
        severity: sum(problem.severity == severity for problem in opened.problems)
        for severity in ("error", "warning")
    }
    models = len(opened.vectors)
    if count["error"]:
        return f"not compatible: {counted(count['error'], 'error')} (see above)"
    result = f"compatible: {counted(models, 'checkpoint')} can be merged into the base"
    return f"{result}, with {counted(count['warning'], 'warning')}" if count["warning"] else result


def geometry(measured: "Geometry") -> str:
    """Returns cosines, relative distances per layer, and norms, as three tables."""
    cosines = measured.cosine()
    distances = measured.distance(relative=True)
    norms = measured.distance(by="model")
    parts = [
        "Cosine of the distribution vectors, whole model",
        table([["", *measured.vectors], *_rows(measured.vectors, cosines, "undefined")]),
        "",
        "Distance from the base per layer, relative to the base's norm",
        table([["", *distances.columns], *_rows(distances.rows, distances.values, "undefined")]),
        "",
        "Norm of each vector, whole model",
        table([["", *norms.columns], *_rows(norms.rows, norms.values, "undefined")]),
    ]
    return "\n".join(parts)


def _rows(names: Sequence[str], values: np.ndarray, undefined: str) -> list[list[str]]:
    """Returns a named row of texts per row of numbers; NaN becomes the word `undefined`."""
    return [
        [name, *(undefined if math.isnan(value) else f"{value:.4f}" for value in row)]
        for name, row in zip(names, values.tolist(), strict=True)
    ]


def inspection(opened: "Opened", measured: "Geometry | None") -> dict[str, Any]:
    """Returns the result of `dem inspect` as data for JSON; undefined cosines are null.

    Args:
        opened: base, vectors and problems of the preflight.
        measured: the geometry; None if nothing could be measured.
    """
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
    if measured is not None:
        result["geometry"] = {
            "vectors": list(measured.vectors),
            "cosine": _data(measured.cosine()),
            "layers": measured.layers,
            "cosine_by_layer": {layer: _data(measured.cosine(layer)) for layer in measured.layers},
            "distance_by_layer": _data(measured.distance().values),
            "relative_distance_by_layer": _data(measured.distance(relative=True).values),
        }
    return result


def _data(values: np.ndarray) -> list[list[float | None]]:
    """Returns a matrix as nested lists for JSON, which has no NaN: it becomes None."""
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]


def adapter(fit: "Fit") -> str:
    """Returns rank, norm and relative error of an adapter per layer, then what it does not hold."""
    rows = [["layer", "tensors", "rank", "‖Δ‖", "relative error"]]
    for row in fit.by_layer():
        low, high = row.ranks
        ranks = str(low) if low == high else f"{low} to {high}"
        rows.append([row.layer, str(row.tensors), ranks, f"{row.norm:.4g}", f"{row.error:.2e}"])
    lines = [table(rows), f"relative error of what is in the adapter: {fit.error:.2e}"]
    lines += [
        f"not in the adapter, {fit.share(part):.2%} of ‖Δ‖²: {part.label}" for part in fit.left_out
    ]
    if fit.left_out:
        lines.append(
            f"in all, {fit.missing:.2%} of ‖Δ‖² is not in the adapter: "
            "it holds matrices of linear modules only"
        )
    return "\n".join(lines)


def rounding(cost: "RoundingCost") -> str:
    """Returns what the output dtype loses of a merge, per layer and in all, with advice."""
    losses = cost.table()
    rows = [["layer", *losses.columns]]
    for name, row in [
        *zip(losses.rows, losses.values.tolist(), strict=True),
        ("whole model", [*cost.total.values()]),
    ]:
        # A cosine is close to 1, so it needs more digits than the shares beside it.
        cells = [
            f"{value:.4f}" if kind == "cosine" else f"{value:.1%}"
            for kind, value in zip(losses.columns, row, strict=True)
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
    """Returns the report of `rounding` as data for JSON; undefined numbers are null."""
    losses = cost.table()
    total = np.array([list(cost.total.values())])
    return {
        "dtypes": list(cost.dtypes),
        "columns": list(losses.columns),
        "layers": list(losses.rows),
        "values": _data(losses.values),
        "total": _data(total)[0],
        "not_finite": int(cost.overflown.sum()),
        "advice": cost.advice(),
    }


def weights(omegas: "Mapping[str, Mapping[str, float | None]]") -> str:
    """Returns the ω that each tensor gets from each model, with tensors down and models across.

    A tensor that stays the base's, whatever ω is, shows "base".
    """
    models = list(next(iter(omegas.values()), {}))
    rows = [["tensor", *models]]
    rows += [
        [name, *("base" if row[model] is None else f"{row[model]:g}" for model in models)]
        for name, row in omegas.items()
    ]
    return table(rows)


def losses(results: "Sequence[Loss]") -> str:
    """Returns the loss per dataset with standard error and counts, and the mean of the datasets."""
    rows = [["dataset", "loss", "± s.e.", "examples", "tokens"]]
    rows += [
        [row.dataset, f"{row.value:.4f}", f"{row.stderr:.4f}", str(row.n), str(row.tokens)]
        for row in results
    ]
    # Each dataset counts alike in the mean, and their errors are independent.
    mean = sum(row.value for row in results) / len(results)
    error = math.sqrt(sum(row.stderr**2 for row in results)) / len(results)
    rows.append(
        [
            "mean",
            f"{mean:.4f}",
            f"{error:.4f}",
            str(sum(row.n for row in results)),
            str(sum(row.tokens for row in results)),
        ]
    )
    return table(rows)


def scores(results: "Sequence[Score]") -> str:
    """Returns the score per task with standard error and count."""
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
        for row in results
    ]
    return table(rows)


def of(recipe: "Recipe | None", target: str) -> dict[str, Any]:
    """Returns what was measured, for JSON: the recipe with its digest and formula, or the folder.

    Args:
        recipe: None if `target` is a model folder.
        target: the argument of the command.
    """
    if recipe is None:
        return {"folder": str(Path(target))}
    return {"recipe": recipe_yaml(recipe), "digest": recipe.digest, "formula": formula(recipe)}


def methods() -> str:
    """Returns each merge method with its formula, source and parameters."""
    blocks = []
    for name in merge_methods.names():
        method = merge_methods.load(name)
        lines = [f"{name}: {method.formula}", f"    {method.paper}"]
        lines += ["    weight, per model: ω"] if method.weighted else []
        lines += [_parameter(param) for param in method.parameters]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _parameter(param: "Param") -> str:
    """Returns one line: the name of a parameter, its default, its range, and its help."""
    scope = ", per model" if param.per_vector else ""
    # As a recipe writes it: true, not True.
    default = "" if param.default is None else f" = {str(param.default).lower()}"
    if param.choices:
        allowed = f", {' or '.join(param.choices)}"
    else:
        allowed = "" if math.isinf(param.low) else f", {param.low:g} to {param.high:g}"
    return f"    {param.name}{default}{scope}{allowed}: {param.help}"


def methods_as_data() -> list[dict[str, Any]]:
    """Returns the merge methods as data for JSON."""
    described = []
    for name in merge_methods.names():
        method = merge_methods.load(name)
        # JSON has no infinity, so an open end of a range is null.
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
        described.append(
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
    return described
