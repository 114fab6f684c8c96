"""Opens the statistics files that a recipe names, and checks that they fit its models."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Weights, shape_of
from merging.inputs.statistics import Statistics
from merging.inputs.vector import Vector
from merging.methods import _contract as methods
from merging.recipe.parts import ModelEntry
from merging.recipe.recipe import Recipe
from plumbing.suggest import listed


def statistics_of(recipe: Recipe) -> dict[str, Statistics]:
    """The files of statistics that a recipe names, by vector; none where its method needs none.

    Raises:
        CheckpointError: for a file that is missing or is not one of statistics.
    """
    if recipe.definition.statistics is None:
        return {}
    shared = recipe.parameters.get(methods.STATISTICS)
    return {
        source.name: Statistics(str(source.parameters.get(methods.STATISTICS, shared)))
        for source in recipe.models
    }


def of(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]) -> dict[str, Statistics]:
    """The statistics that a recipe names, by vector, checked from headers; none where its method needs none.

    Raises:
        CheckpointError: for a file that is missing or is not one of statistics.
        RecipeError: for statistics of another kind than the method's.
        MismatchError: for those of another model, or that do not fit the base or each other.
    """
    kind = recipe.definition.statistics
    if kind is None:
        return {}
    found = statistics_of(recipe)
    for source in recipe.models:
        opened = found[source.name]
        where = f"{source.name}: {opened.path}"
        if opened.facts.kind != kind:
            raise RecipeError(
                f"{where} holds statistics of kind {opened.facts.kind!r}, {recipe.method} needs {kind!r}. Collect them: "
                f"{_command(source, kind)}"
            )
        digest = vectors[source.name].digest
        if digest and digest != opened.facts.model:
            raise MismatchError(
                f"{where} was collected on weights with digest {opened.facts.model[:12]}…, and {source.location} has "
                f"{digest[:12]}…. Collect them on what is merged: {_command(source, kind)} (for an adapter: merge it into "
                "a folder of its own first, and name that folder in the recipe)."
            )
        for name in opened.stored:
            _fits(where, name, opened, base)
    _alike(found)
    return found


def _command(source: ModelEntry, kind: str) -> str:
    return f"dem statistics {source.location} OUT --data DIR --kind {kind}"


def _fits(where: str, name: str, opened: Statistics, base: Weights) -> None:
    if name not in base:
        raise MismatchError(
            f"{where} has statistics of {name!r}, which the base lacks: it is of another base."
        )
    info, expected = opened.stored.info(name), shape_of(base, name)
    if opened.facts.kind == "gram":
        inputs = expected[opened.axis(name)] if len(expected) == 2 else None
        wanted: tuple[int | None, ...] = (inputs, inputs)
    else:
        wanted = expected
    if info.shape != wanted:
        raise MismatchError(
            f"{where}: the {opened.facts.kind} statistics of {name!r} have shape {list(info.shape)}, and the base's tensor "
            f"of shape {list(expected)} needs {list(wanted)}. Collect them on a fine-tune of this base."
        )
    if info.dtype not in (torch.float32, torch.float64):
        raise MismatchError(
            f"{where}: {name!r} is stored as {info.dtype}, expected float32. Collect the statistics again."
        )


def _alike(found: Mapping[str, Statistics]) -> None:
    """A tensor has statistics of all models or of none, for a share of something unknown is no number."""
    first, *rest = found.items()
    for name, other in rest:
        ours, theirs = set(first[1].stored), set(other.stored)
        if ours != theirs:
            raise MismatchError(
                f"{first[0]} and {name} have statistics of different tensors: {listed(sorted(ours ^ theirs))} only in one. "
                "Collect both with the same version of this program and of transformers."
            )
        turned = set(first[1].facts.inputs_first) ^ set(other.facts.inputs_first)
        if turned:
            raise MismatchError(
                f"the statistics of {first[0]} and {name} disagree about which axis of {listed(sorted(turned))} the inputs "
                "are on. Collect both with the same version of this program and of transformers."
            )
