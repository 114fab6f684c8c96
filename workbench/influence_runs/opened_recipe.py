"""A recipe's base and vectors, opened once, on which any of its compositions is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import SessionError
from workbench.session.composer import Composer

if TYPE_CHECKING:
    from evaluation.model import Loaded
    from merging import Checkpoint, Recipe, Vector


@dataclass(frozen=True)
class OpenedRecipe:
    """What a recipe names, with one module that holds its compositions in turn.

    Attributes:
        recipe: the recipe.
        base: the opened base.
        vectors: name -> distribution vector, in the recipe's order, without the base itself.
        loaded: the base as a module, with its tokenizer.
        composer: writes compositions into the module.
    """

    recipe: Recipe
    base: Checkpoint
    vectors: Mapping[str, Vector]
    loaded: Loaded
    composer: Composer

    def compose(self, omegas: Mapping[str, float]) -> Any:
        """Returns the module with the recipe's weights at other ω."""
        return self.composer.compose(self.recipe.with_omegas(omegas))


def open_models(recipe: Recipe, located: Callable[[str], Path] = Path) -> OpenedRecipe:
    """Opens the models of a recipe, in the dtype of its output.

    Args:
        recipe: the recipe.
        located: returns the folder of a reference as written in the recipe.

    Raises:
        MergingError, LoadError: the models cannot be opened, or do not fit each other.
        SessionError: the recipe restacks layers, or the base has no tokenizer.
    """
    from evaluation.model import load
    from merging import prepare
    from merging.dtypes import DTYPES
    from merging.inputs.hub import probe
    from merging.inputs.vocabulary.aligned import Grown

    if recipe.slices:
        raise SessionError(
            "the recipe restacks layers, and a vector of other layers has no ω here. Give a recipe "
            "with models, without slices."
        )
    base, vectors, _ = prepare(recipe, located, probe=probe)
    if isinstance(base, Grown):
        raise SessionError(
            "the checkpoints have other vocabularies than the base, so the composition has another "
            "shape. Merge it with dem merge, and give a recipe on the result."
        )
    named = recipe.out_dtype or recipe.dtype
    loaded = load(base.path, checkpoint=base, dtype=DTYPES[named] if named else None)
    if loaded.tokenizer is None:
        raise SessionError(f"{base.path} has no tokenizer. Copy the tokenizer's files into it.")
    own = {
        source.name: vectors[source.name]
        for source in recipe.models
        if source.location != recipe.base
    }
    return OpenedRecipe(recipe, base, own, loaded, Composer(base.path, loaded, base, vectors))


def mixable_omegas(recipe: Recipe) -> dict[str, float]:
    """Returns the ω of a recipe that a mixture of data may correspond to: Θ + Σ ω_j Δ_j.

    Raises:
        SessionError: the recipe has another method or slices, fewer than two vectors, or an ω
            that is no single number.
    """
    if recipe.method != "task_arithmetic" or recipe.slices:
        raise SessionError(
            f"the recipe's method is {recipe.method}{' with slices' if recipe.slices else ''}. "
            "Proportions of data correspond to a plain sum of vectors: give a recipe of "
            "task_arithmetic without slices."
        )
    if len(recipe.models) < 2:
        raise SessionError(
            f"the recipe has {len(recipe.models)} vector, so there is nothing to mix. "
            "Give one of two vectors or more."
        )
    for name, omega in recipe.omegas.items():
        if isinstance(omega, bool) or not isinstance(omega, int | float):
            raise SessionError(
                f"ω of {name} is {omega!r}; a dataset has one proportion, so expected one number. "
                f"Give {name} one ω for all tensors."
            )
    return {name: float(omega) for name, omega in recipe.omegas.items()}
