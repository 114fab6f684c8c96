"""fingerprint(), weights_key(recipe)."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merging.recipe import Recipe


def weights_key(recipe: Recipe) -> str:
    """A name of the weights that a recipe makes: equal for recipes that differ only in what they list at ω = 0.

    It is made from the digests of the inputs that stand in the recipe, so that a stored recipe keeps it; an input without
    a digest goes by its folder.
    """
    parts = [
        (_input(recipe, source.name) or source.location, source.name, dict(source.parameters))
        for source in recipe.models
        if recipe.omegas[source.name] != 0.0
    ]
    settings = [
        recipe.method,
        dict(recipe.parameters),
        recipe.dtype,
        recipe.out_dtype,
        recipe.seed,
        recipe.rounding,
    ]
    chosen = [list(recipe.include), list(recipe.exclude), recipe.vocabulary, repr(recipe.slices)]
    files = {
        name: digest for name, digest in recipe.inputs.items() if name.startswith("statistics of ")
    }
    return fingerprint([recipe.inputs.get("base") or recipe.base, parts, settings, chosen, files])[
        :16
    ]


def _input(recipe: Recipe, name: str) -> str | None:
    """The digest of a model; merging calls it so in dem.inputs, where "base" is the base."""
    return recipe.inputs.get("model base" if name == "base" else name)


def fingerprint(value: Any) -> str:
    """SHA-256 of a value that JSON can write, with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
