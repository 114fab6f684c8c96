"""Checks that a recipe fits the base and the vectors that were opened for it."""

from collections.abc import Iterable, Mapping

from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Weights
from merging.inputs.vector import Vector
from merging.recipe import Recipe, settings
from plumbing.suggest import listed


def check_vectors(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]) -> None:
    """Checks that all vectors of a recipe are there and belong to the base.

    Raises:
        RecipeError: for a vector that the recipe names and `vectors` lacks.
        MismatchError: for a vector that changes tensors which the base lacks.
    """
    for source in recipe.models:
        if source.name not in vectors:
            raise RecipeError(
                f"the recipe names {source.name!r}, which is not loaded; loaded: "
                f"{listed(sorted(vectors)) or 'none'}."
            )
        if unknown := [name for name in vectors[source.name] if name not in base]:
            raise MismatchError(
                f"{source.name} changes {listed(unknown)}, which the base lacks: it belongs to "
                "another base."
            )


def check_filters(recipe: Recipe, base: Iterable[str]) -> None:
    """Checks that each filter of a recipe without slices is part of some tensor's name.

    Raises:
        RecipeError: a line for each filter that is not.
    """
    names = list(base)
    filters = [("dem.include:", part) for part in recipe.include] + [
        ("dem.exclude:", part) for part in recipe.exclude
    ]
    scopes = [
        ("parameters", recipe.parameters),
        *((source.name, source.parameters) for source in recipe.models),
    ]
    for label, scope in scopes:
        for key, setting in scope.items():
            filters += [(f"{label}: {key}: the filter", part) for part in settings.filters(setting)]
    # A filter without a match is nearly always a typing error, which mergekit ignores in silence.
    # All are reported together, so that a recipe is corrected once.
    unmatched = [
        f"{label} {part!r} matches no tensor of the base."
        for label, part in filters
        if not any(part in name for name in names)
    ]
    if unmatched:
        raise RecipeError("\n".join(unmatched))
