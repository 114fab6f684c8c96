"""What must hold of a recipe whichever way it was made: its keys, how many models, what part the base plays."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from merging.errors import RecipeError
from merging.methods import _contract as methods
from merging.recipe import fields, settings
from merging.recipe.parts import ModelEntry, Slice, SliceSource
from merging.recipe.settings import Setting
from plumbing.suggest import listed, nearest


def checked_settings(
    method: str, models: tuple[ModelEntry, ...], parameters: Mapping[str, Any], *, restacked: bool
) -> dict[str, Any]:
    """`models` and `parameters` of a recipe in the one form that equal recipes share.

    Args:
        method: the merge method's name.
        models: as they were given.
        parameters: the recipe's own, as they were given.
        restacked: whether the recipe has slices, whose sources then carry the parameters.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    names = [source.name for source in models]
    settled = []
    for source in models:
        where = f"models: {source.name}"
        if names.count(source.name) > 1:
            raise RecipeError(
                f"two models are called {source.name!r}; give each a name of its own in dem.names."
            )
        _named(source, where)
        if not restacked:
            _known_keys(method, parameters, source, where)
        settled.append(replace(source, parameters=_settings(method, source.parameters, where)))
    if not restacked:
        _shared_keys(method, parameters)
    return {"models": tuple(settled), "parameters": _settings(method, parameters, "parameters")}


def with_base(
    method: str, base: str | None, models: tuple[ModelEntry, ...]
) -> tuple[ModelEntry, ...]:
    """The models, with the base among them if the method treats it as one; as many as the method takes.

    Raises:
        RecipeError: for a base that is missing, and for too few or too many models.
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
        models = (
            *models,
            ModelEntry(base, fields.unique("base", [source.name for source in models])),
        )
    least, most = methods.load(method).vectors
    if not least <= len(models) <= (most or len(models)):
        wanted = f"exactly {least}" if least == most else f"at least {least}"
        raise RecipeError(
            f"{method} takes {wanted} model{'s' if least > 1 else ''}{' beside the base' if base else ''}, "
            f"and {len(models)} are given: {listed([source.name for source in models])}."
        )
    return models


def check_slices(
    method: str, models: tuple[ModelEntry, ...], slices: tuple[Slice, ...], vocabulary: str
) -> None:
    """What must hold of a recipe with slices before each slice is looked at.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    if methods.load(method).closed_form is not None:
        raise RecipeError(
            f"{method} computes ω from whole models, which slices are not. Choose a method with ω, for example "
            "task_arithmetic."
        )
    if methods.load(method).statistics:
        raise RecipeError(
            f"{method} needs statistics, which are of whole models, and slices take their layers apart. Merge with "
            "models: first, and restack the result."
        )
    if with_own := [source.name for source in models if source.parameters]:
        raise RecipeError(
            f"models: {with_own[0]}: parameters of a recipe with slices stand at the sources of its slices."
        )
    if vocabulary != "refuse":
        raise RecipeError(
            f"dem.vocabulary is {vocabulary!r}, and slices take their embeddings and heads as they are. Remove it, "
            "and restack models of one vocabulary."
        )
    if not any(part.length for part in slices):
        raise RecipeError("slices: no layer is in any layer_range; name at least one.")
    names = [source.name for source in models]
    for number, part in enumerate(slices):
        if strange := [source.model for source in part.sources if source.model not in names]:
            raise RecipeError(
                f"slices[{number}]: no model is called {strange[0]!r}; the recipe has {', '.join(names)}."
            )


def base_settings(method: str, source: SliceSource) -> dict[str, Setting]:
    """The parameters of the source that is a slice's base, checked; like mergekit, the merge does not use them.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    known = [param.name for param in methods.load(method).parameters if param.per_vector]
    known += [methods.WEIGHT] * methods.load(method).weighted + [*methods.load(method).ignored]
    where = f"models: {source.model}"
    for key in source.parameters:
        if key not in known:
            raise RecipeError(f"{where}: unknown parameter {key!r}; {nearest(str(key), known)}")
    return {
        key: settings.check(value, f"{where}: {key}") for key, value in source.parameters.items()
    }


def _named(source: ModelEntry, where: str) -> None:
    if not (source.name.strip() and source.name.isprintable()):
        raise RecipeError(
            f"a model is called {source.name!r}; give it a name that can be shown, in dem.names."
        )
    if not (source.path + (source.lora or "")).isprintable():
        raise RecipeError(
            f"{where}: {source.location!r} has characters that a recipe cannot hold; rename the folder."
        )
    if "+" in source.path:
        raise RecipeError(
            f"{where}: {source.path!r}: a recipe reads what follows a + as an adapter; rename the folder."
        )


def _known_keys(method: str, parameters: Mapping[str, Any], source: ModelEntry, where: str) -> None:
    """Every key of a model is known, and none that it needs is missing."""
    weighted = methods.load(method).weighted
    known = methods.load(method).parameters
    own = [methods.WEIGHT] * weighted + [param.name for param in known if param.per_vector]
    for key in source.parameters:
        if key not in (*own, *methods.load(method).ignored):
            hint = (
                "it belongs under parameters of the recipe"
                if key in [param.name for param in known]
                else f"{method} has no ω"
                if key == methods.WEIGHT
                else nearest(str(key), own)
            )
            raise RecipeError(f"{where}: unknown parameter {key!r}; {hint}")
    if weighted and source.parameters.get(methods.WEIGHT, parameters.get(methods.WEIGHT)) is None:
        raise RecipeError(f"{where}: parameters.weight is missing; it is the ω of this checkpoint.")
    for param in known:
        if (
            param.per_vector
            and param.default is None
            and param.name not in {**parameters, **source.parameters}
        ):
            raise RecipeError(f"{where}: parameters.{param.name} is missing; it is {param.help}.")


def _shared_keys(method: str, parameters: Mapping[str, Any]) -> None:
    """Every key under the recipe's parameters is known, and none that the method needs is missing."""
    known = methods.load(method).parameters
    names = [methods.WEIGHT] * methods.load(method).weighted + [param.name for param in known]
    for key in parameters:
        if key not in (*names, *methods.load(method).ignored):
            raise RecipeError(f"parameters: unknown key {key!r}; {nearest(str(key), names)}")
    for param in known:
        if not param.per_vector and param.default is None and param.name not in parameters:
            raise RecipeError(
                f"parameters.{param.name} is missing; for {method} it is {param.help}."
            )


def _settings(method: str, given: Mapping[str, Any], where: str) -> dict[str, Setting]:
    words = {param.name: param.choices for param in methods.load(method).parameters}
    files = [param.name for param in methods.load(method).parameters if param.file]
    return {
        key: settings.path(value, f"{where}: {key}")
        if key in files
        else settings.check(value, f"{where}: {key}", words.get(key, ()))
        for key, value in given.items()
    }
