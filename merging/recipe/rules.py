"""Rules that every recipe must keep, from a file or from code: keys, number of models, the base.

The functions take a method's name, models and parameters, and know no Recipe: recipe.py calls them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from merging.errors import RecipeError
from merging.methods import _contract as methods
from merging.methods._values import Range
from merging.recipe import fields, settings
from merging.recipe.parts import ModelEntry, Slice, SliceSource
from merging.recipe.settings import Setting
from plumbing.suggest import listed, nearest


def check_settings(
    method: str, models: tuple[ModelEntry, ...], parameters: Mapping[str, Any], *, restacked: bool
) -> dict[str, Any]:
    """Returns a recipe's `models` and `parameters`, checked, in one form for equal recipes.

    Args:
        method: the merge method's name.
        models: as they were given.
        parameters: the recipe's own, as they were given.
        restacked: whether the recipe has slices. Then the sources of the slices carry the
            parameters, and keys are checked there.

    Raises:
        RecipeError: an unknown or missing key, a wrong value, or a name that two models share.
    """
    names = [source.name for source in models]
    checked = []
    for source in models:
        key = f"models: {source.name}"
        # Vectors, sliders and digests are looked up by name.
        if names.count(source.name) > 1:
            raise RecipeError(
                f"two models are called {source.name!r}; give each a name of its own in dem.names."
            )
        _check_name(source, key)
        if not restacked:
            _check_model_keys(method, parameters, source, key)
        checked.append(replace(source, parameters=_check_values(method, source.parameters, key)))
    if not restacked:
        _check_shared_keys(method, parameters)
    shared = _check_values(method, parameters, "parameters")
    return {"models": tuple(checked), "parameters": shared}


def with_base(
    method: str, base: str | None, models: tuple[ModelEntry, ...]
) -> tuple[ModelEntry, ...]:
    """Returns the models, with the base added if the method treats it as one of them.

    Raises:
        RecipeError: the base is missing, or there are too few or too many models.
    """
    role = methods.load(method).base_role
    if not models:
        raise RecipeError("models is empty, expected at least one checkpoint.")
    if base is None and role in ("origin", "operand"):
        needs = "adds differences to a base" if role == "origin" else "has the base as an operand"
        raise RecipeError(f"base_model is missing; {method} {needs}.")
    if (
        base is not None
        and role == "vector"
        and not any(source.location == base for source in models)
    ):
        # As in mergekit, where karcher takes the base as one more input even if it is not listed.
        models = (
            *models,
            ModelEntry(base, fields.unique_name("base", [source.name for source in models])),
        )
    least, most = methods.load(method).vectors
    if not least <= len(models) <= (most or len(models)):
        wanted = f"exactly {least}" if least == most else f"at least {least}"
        noun = f"model{'s' if least > 1 else ''}{' beside the base' if base else ''}"
        names = listed([source.name for source in models])
        raise RecipeError(f"{method} takes {wanted} {noun}, and {len(models)} are given: {names}.")
    return models


def check_slices(
    method: str, models: tuple[ModelEntry, ...], slices: tuple[Slice, ...], vocabulary: str
) -> None:
    """Checks what a recipe with slices must keep as a whole, before each slice is checked.

    Raises:
        RecipeError: the method cannot restack, a model has parameters outside the slices, another
            vocabulary is asked for, no layer is named, or a slice names an unknown model.
    """
    if methods.load(method).closed_form is not None:
        raise RecipeError(
            f"{method} computes ω from whole models, and slices are parts of models. Choose a "
            "method with ω, for example task_arithmetic."
        )
    if methods.load(method).statistics:
        raise RecipeError(
            f"{method} needs statistics, which are of whole models, and slices are parts of "
            "models. Merge with models: first, and restack the result."
        )
    if with_own := [source.name for source in models if source.parameters]:
        raise RecipeError(
            f"models: {with_own[0]}: in a recipe with slices, parameters belong to the sources of "
            "the slices. Move them there."
        )
    if vocabulary != "refuse":
        raise RecipeError(
            f"dem.vocabulary is {vocabulary!r}, and slices take their embeddings and heads as they "
            "are. Remove it, and restack models of one vocabulary."
        )
    if not any(part.length for part in slices):
        raise RecipeError("slices: no layer is in any layer_range; name at least one.")
    names = [source.name for source in models]
    for number, part in enumerate(slices):
        if unknown := [source.model for source in part.sources if source.model not in names]:
            raise RecipeError(
                f"slices[{number}]: no model is called {unknown[0]!r}; "
                f"the recipe has {', '.join(names)}."
            )


def check_base_settings(method: str, source: SliceSource) -> dict[str, Setting]:
    """Returns the parameters of a slice's base, checked. As in mergekit, the merge ignores them.

    Raises:
        RecipeError: an unknown key or a wrong value.
    """
    # Nothing reads these values. They are checked because a misspelt key is a mistake here too.
    names = [param.name for param in methods.load(method).parameters if param.per_vector]
    names += [methods.WEIGHT] * methods.load(method).weighted + [*methods.load(method).ignored]
    model = f"models: {source.model}"
    for key in source.parameters:
        if key not in names:
            raise RecipeError(f"{model}: unknown parameter {key!r}; {nearest(str(key), names)}")
    return {
        key: settings.check(value, f"{model}: {key}") for key, value in source.parameters.items()
    }


def _check_name(source: ModelEntry, model: str) -> None:
    """Checks that name and path of a model can be shown and written to a file."""
    # A line break in a name would break tables, cards and the line of a message.
    if not (source.name.strip() and source.name.isprintable()):
        raise RecipeError(
            f"a model is called {source.name!r}; give it a name that can be shown, in dem.names."
        )
    if not (source.path + (source.lora or "")).isprintable():
        raise RecipeError(
            f"{model}: {source.location!r} has characters that a recipe cannot hold; "
            "rename the folder."
        )


def _check_model_keys(
    method: str, parameters: Mapping[str, Any], source: ModelEntry, model: str
) -> None:
    """Checks that every key of a model is known and that no key it needs is missing."""
    weighted = methods.load(method).weighted
    params = methods.load(method).parameters
    own = [methods.WEIGHT] * weighted + [param.name for param in params if param.per_vector]
    for key in source.parameters:
        if key not in (*own, *methods.load(method).ignored):
            hint = (
                "it belongs under parameters of the recipe"
                if key in [param.name for param in params]
                else f"{method} has no ω"
                if key == methods.WEIGHT
                else nearest(str(key), own)
            )
            raise RecipeError(f"{model}: unknown parameter {key!r}; {hint}")
    # No default: mergekit demands the key too, and a forgotten ω must not become 1 or 0.
    if weighted and source.parameters.get(methods.WEIGHT, parameters.get(methods.WEIGHT)) is None:
        raise RecipeError(f"{model}: parameters.weight is missing; it is the ω of this checkpoint.")
    for param in params:
        # As in mergekit, one value under the recipe's parameters counts for all models.
        if (
            param.per_vector
            and param.default is None
            and param.name not in {**parameters, **source.parameters}
        ):
            raise RecipeError(f"{model}: parameters.{param.name} is missing; it is {param.help}.")


def _check_shared_keys(method: str, parameters: Mapping[str, Any]) -> None:
    """Checks that every key of `parameters` is known and that none of the method's is missing."""
    params = methods.load(method).parameters
    names = [methods.WEIGHT] * methods.load(method).weighted + [param.name for param in params]
    for key in parameters:
        if key not in (*names, *methods.load(method).ignored):
            raise RecipeError(f"parameters: unknown key {key!r}; {nearest(str(key), names)}")
    for param in params:
        if not param.per_vector and param.default is None and param.name not in parameters:
            raise RecipeError(
                f"parameters.{param.name} is missing; for {method} it is {param.help}."
            )


def _check_values(method: str, raw: Mapping[str, Any], owner: str) -> dict[str, Setting]:
    """Checks the values of parameters: paths, words, and numbers with their ranges.

    Args:
        method: the merge method's name.
        raw: key -> value, as it was given.
        owner: how messages name whose parameters they are.
    """
    params = {param.name: param for param in methods.load(method).parameters}
    checked: dict[str, Setting] = {}
    for key, value in raw.items():
        param = params.get(key)
        if param is None:
            # ω, and keys of mergekit that change nothing here: any number.
            checked[key] = settings.check(value, f"{owner}: {key}")
        elif param.file:
            checked[key] = settings.path(value, f"{owner}: {key}")
        else:
            bounds = Range(param.low, param.high)
            checked[key] = settings.check(value, f"{owner}: {key}", param.choices, bounds)
    return checked
