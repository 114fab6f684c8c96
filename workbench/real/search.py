"""Searches the ω of the real demo's compositions, each method with as many evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.real.plan import FULL

if TYPE_CHECKING:
    from evaluation.model import Loaded
    from evaluation.prepared import Prepared
    from merging import Recipe, Weights

BUDGET = 10
"""Compositions that each method may measure on the validation split."""

LINE = (0.4, 0.7, 1.0)
"""Values of one ω for all that are tried first; the search goes on from the best of them."""

METHODS: dict[str, dict[str, Any]] = {
    "TIES": {
        "method": "ties",
        "parameters": {
            "density": 0.2,
            "elect": "unweighted",
            "divide_by": "count",
        },
    },
    "DARE": {"method": "dare_linear", "parameters": {"density": 0.5, "rescale_by": "density"}},
    "TSV": {"method": "tsv"},
}
"""Label of a row -> the method with the settings of its paper; its λ is searched.

TIES keeps a fifth of each delta, DARE half of it; DARE's paper drops up to 0.9, of deltas of far
larger models.
"""

ONE, TUNED, UNIFORM = "one ω for all", "DEM, ω tuned", "uniform average"
"""Labels of the compositions Θ + Σ ωᵢ Δᵢ."""

BASE, OWN, MIXED, FULL_ROW = "base", "own expert", "data mixing", f"{FULL} in full"
"""Labels of what is not composed."""

SEARCHED = (ONE, TUNED, *METHODS)
"""Labels of the rows whose ω or λ is searched."""

LABELS = (OWN, UNIFORM, *SEARCHED, MIXED, FULL_ROW)
"""Labels of the rows that are measured for every seed, in the order of the table."""

MERGED = "merged"
"""Name of a method's vector in a composition, whose ω is the method's λ."""


class Found(NamedTuple):
    """What a search found."""

    omegas: dict[str, float]
    evaluations: int


Measure = Callable[[Mapping[str, float]], dict[str, float]]
"""Takes ω by name, and returns the validation loss of each dataset."""


class Composition:
    """The live model of one recipe. Several may share a module if only the newest is used.

    Args:
        base: the base's weights.
        loaded: its module, which is composed in place.
        recipe: the composition, with any ω.
    """

    def __init__(self, base: Weights, loaded: Loaded, recipe: Recipe) -> None:
        from merging import LiveModel, open_recipe

        _, vectors = open_recipe(recipe)
        # The base's own dtype is bfloat16, to which each composition would be rounded.
        self._recipe, self._module = replace(recipe, out_dtype="float32"), loaded.module
        self._live = LiveModel(loaded.module, base, vectors, loaded.views)

    @property
    def names(self) -> list[str]:
        """Names of the ω."""
        return list(self._recipe.omegas)

    def apply(self, omegas: Mapping[str, float]) -> None:
        """Composes; names without an ω get 0."""
        zero: dict[str, float] = dict.fromkeys(self.names, 0.0)
        self._live.apply(self._recipe.with_omegas(zero | dict(omegas)))

    def losses(self, omegas: Mapping[str, float], prepared: Prepared) -> dict[str, float]:
        """Composes, and returns the loss of each dataset."""
        from evaluation.loss import losses

        self.apply(omegas)
        return {loss.dataset: loss.value for loss in losses(self._module, prepared)}


def search(measure: Measure, names: Sequence[str], score: Callable[..., float]) -> Found:
    """Searches with BUDGET evaluations: a few values for all names, then one name at a time.

    Args:
        measure: composes and measures.
        names: of the ω.
        score: of the losses that `measure` returns; lower is better.
    """
    from evaluation.search import CoordinateSearch, Space, Trial

    known: dict[float, float] = {
        omega: score(measure(dict.fromkeys(names, omega))) for omega in LINE
    }
    line = min(known, key=lambda omega: known[omega])
    space = Space(dict.fromkeys(names, (0.0, 1.5)))
    searcher = CoordinateSearch(space, dict.fromkeys(names, line), step=0.2, smallest=0.05)
    spent = len(LINE)
    while (point := searcher.ask()) is not None:
        values = set(point.values())
        # The search begins at the best point of the line, which is known already.
        told = known.get(values.pop()) if len(values) == 1 else None
        if told is None:
            if spent == BUDGET:
                break
            told, spent = score(measure(point)), spent + 1
        searcher.tell(Trial(point, told))
    assert searcher.best is not None
    return Found(searcher.best.point, spent)


def share_of_gain(start: Mapping[str, float], own: Mapping[str, float]) -> Callable[..., float]:
    """Returns a score of losses: minus the mean share of each expert's gain that is kept.

    A dataset counts 0 where its loss is the base's and 1 where it is its own expert's.

    Args:
        start: dataset -> loss of the base.
        own: dataset -> loss of its expert.
    """

    def score(losses: Mapping[str, float]) -> float:
        shares = [(losses[name] - start[name]) / (start[name] - own[name]) for name in own]
        return sum(shares) / len(shares)

    return score


def merged_vector(recipe: Recipe, label: str, out: Path, seed: int) -> Recipe:
    """Merges with a method at λ = 1 and returns a recipe of the result, whose ω is λ.

    With ω of 1 for all, Θ + λ · M is what each of METHODS gives, so M is computed once.

    Args:
        recipe: the composition of the experts.
        label: one of METHODS.
        out: the folder to write.
        seed: of methods that draw at random.
    """
    from merging import Recipe, export, open_recipe

    method = METHODS[label]
    ones = replace(
        recipe.with_omegas(dict.fromkeys(recipe.omegas, 1.0)),
        method=method["method"],
        parameters=method.get("parameters", {}),
        seed=seed,
        out_dtype="float32",
        inputs={},
    )
    if not out.exists():
        export(ones, *open_recipe(ones), out)
    assert recipe.base is not None
    return Recipe.compose(recipe.base, {MERGED: out})
