"""Keys that identify the weights of a recipe, and any other value, by SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merging.recipe import Recipe


def weights_key(recipe: Recipe) -> str:
    """Returns the key that identifies the weights which a recipe gives.

    Runs and the ledger store it as `digest`. It covers the base, every model whose ω is not 0 with
    its parameters, the method with its parameters and stream of random numbers, dtypes, seed,
    rounding, the filters, the vocabulary, slices and statistics files. Recipes that differ only in
    models at ω = 0 have the same key.

    Models are identified by the digests in `recipe.inputs`, so a stored recipe keeps its key when
    its folders move; a model without a digest is identified by its location.

    Returns:
        The first 16 hexadecimal digits of the fingerprint.
    """
    # Without the models at ω = 0: scores must be found again after one of these vectors was closed.
    parts = [
        (
            _input_digest(recipe, source.name) or source.location,
            source.name,
            dict(source.parameters),
        )
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
    scope = [list(recipe.include), list(recipe.exclude), recipe.vocabulary, repr(recipe.slices)]
    statistics = {
        name: digest for name, digest in recipe.inputs.items() if name.startswith("statistics of ")
    }
    base = recipe.inputs.get("base") or recipe.base
    return fingerprint([base, parts, settings, scope, statistics, *_draws(recipe)])[:16]


def composition_key(recipe: Recipe, base: str, identities: Mapping[str, str]) -> str:
    """Returns a key of the weights that a recipe of open models gives.

    It covers base and vectors, the ω that are not 0, the method and its settings.

    Args:
        recipe: the composition.
        base: what identifies the base.
        identities: name of a vector, or of a base that is one more model -> what identifies it.
    """
    parts = [
        # The name counts too: the random masks of DARE and its relatives depend on it.
        (identities[source.name], source.name, dict(source.parameters))
        for source in recipe.models
        if recipe.omegas[source.name] != 0.0
    ]
    scope = [list(recipe.include), list(recipe.exclude), recipe.rounding]
    settings = [recipe.method, dict(recipe.parameters), recipe.dtype, recipe.seed]
    return fingerprint([base, parts, *settings, *scope, *_draws(recipe)])


def _draws(recipe: Recipe) -> list[int]:
    """Returns the number of the stream of random numbers, if the method draws any."""
    return [recipe.definition.draws] if recipe.definition.draws else []


def parts_text(recipe: Recipe, identities: Mapping[str, str]) -> str | None:
    """Returns what a composition of the open models is made of, as JSON.

    From it the sliders are found again for any set of open models that has these vectors:
    {"method": …, "parameters": {…}, "vectors": {name: [identity, ω]}}. Vectors at ω = 0 are left
    out. A vector of a method without ω has the ω 1.

    Args:
        recipe: the composition.
        identities: name of an open vector -> its identity.

    Returns:
        The text, or None for a recipe that sliders cannot show, such as one with ω per layer.
    """
    vectors = {}
    for name, omega in recipe.omegas.items():
        if name not in identities or omega == 0.0:
            continue
        if not (omega is None or isinstance(omega, int | float)):
            return None
        vectors[name] = [identities[name], 1.0 if omega is None else float(omega)]
    settings = {"method": recipe.method, "parameters": dict(recipe.parameters), "vectors": vectors}
    return json.dumps(settings, sort_keys=True, default=str)


def _input_digest(recipe: Recipe, name: str) -> str | None:
    """Returns the digest of a model in the recipe, or None if it has none."""
    # In dem.inputs "base" is the base, so a model that is called base is listed as "model base".
    return recipe.inputs.get("model base" if name == "base" else name)


def fingerprint(value: Any) -> str:
    """Returns the SHA-256, in hexadecimal, of a value written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
