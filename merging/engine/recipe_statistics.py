"""Opens the statistics files that a recipe names and checks that they fit its models."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Weights, shape_of
from merging.inputs.sampled_digest import digest_like
from merging.inputs.statistics import Statistics
from merging.inputs.vector import Vector
from merging.methods import _contract as methods
from merging.recipe.parts import ModelEntry
from merging.recipe.recipe import Recipe
from plumbing.shell import shell_line, shell_path
from plumbing.suggest import listed


def statistics_of(recipe: Recipe) -> dict[str, Statistics]:
    """Returns the statistics files that a recipe names, by vector; {} if its method needs none.

    Raises:
        CheckpointError: if a file is missing or is not a statistics file.
    """
    if recipe.definition.statistics is None:
        return {}
    shared = recipe.parameters.get(methods.STATISTICS)
    return {
        source.name: Statistics(str(source.parameters.get(methods.STATISTICS, shared)))
        for source in recipe.models
    }


def open_statistics(
    recipe: Recipe,
    base: Weights,
    vectors: Mapping[str, Vector],
    shared: Mapping[str, tuple[str, ...]],
) -> dict[str, Statistics]:
    """Opens the statistics that a recipe names, by vector, and checks them from their headers.

    Args:
        recipe: the merge.
        base: Θ.
        vectors: the vectors that the recipe names.
        shared: names of tensors that the base stores under several; see shared_tensors.

    Returns:
        vector -> its statistics; {} if the recipe's method needs none.

    Raises:
        CheckpointError: if a file is missing or is not a statistics file.
        RecipeError: if the statistics are not of the kind that the method needs.
        MismatchError: if they belong to another model, or do not fit the base or each other.
    """
    kind = recipe.definition.statistics
    if kind is None:
        return {}
    files = statistics_of(recipe)
    for source in recipe.models:
        opened = files[source.name]
        label = f"{source.name}: {opened.path}"
        # Collecting takes hours, so each message has the whole command line for the right ones.
        if opened.facts.kind != kind:
            raise RecipeError(
                f"{label} holds statistics of kind {opened.facts.kind!r}, {recipe.method} needs "
                f"{kind!r}. Collect them: {_command(source, kind)}"
            )
        # Vectors in memory have no digest, so their statistics cannot be checked against them.
        digest = digest_like(opened.facts.model, vectors[source.name])
        if digest and digest != opened.facts.model:
            raise MismatchError(
                f"{label} was collected on weights with digest {opened.facts.model[:12]}…, but "
                f"{source.location} has {digest[:12]}…. Collect statistics of the model that is "
                f"merged: {_command(source, kind)} (for an adapter: merge it into a folder first, "
                "and name that folder in the recipe)."
            )
        for name in opened.stored:
            _check_tensor(label, name, opened, base)
    _check_same_tensors(files, shared)
    return files


def _command(source: ModelEntry, kind: str) -> str:
    """Returns the command line that collects statistics of this kind."""
    model = shell_path(source.location)
    return shell_line(["dem", "statistics", model, "OUT", "--data", "DIR", "--kind", kind])


def _check_tensor(label: str, name: str, opened: Statistics, base: Weights) -> None:
    """Raises a MismatchError if the statistics of one tensor do not fit the base's tensor."""
    if name not in base:
        raise MismatchError(
            f"{label} has statistics of {name!r}, which the base lacks: it belongs to another base."
        )
    info, expected = opened.stored.info(name), shape_of(base, name)
    # A Gram matrix is (inputs, inputs); Fisher numbers have the tensor's own shape.
    if opened.facts.kind == "gram":
        # None equals no size, so statistics of a tensor that is no matrix are refused below.
        inputs = expected[opened.axis(name)] if len(expected) == 2 else None
        wanted: tuple[int | None, ...] = (inputs, inputs)
    else:
        wanted = expected
    if info.shape != wanted:
        raise MismatchError(
            f"{label}: the {opened.facts.kind} statistics of {name!r} have shape "
            f"{list(info.shape)}, but the base's tensor of shape {list(expected)} needs "
            f"{list(wanted)}. Collect them on a fine-tune of this base."
        )
    if info.dtype not in (torch.float32, torch.float64):
        raise MismatchError(
            f"{label}: {name!r} is stored as {info.dtype}, expected float32. "
            "Collect the statistics again."
        )


def _check_same_tensors(
    files: Mapping[str, Statistics], shared: Mapping[str, tuple[str, ...]]
) -> None:
    """Raises a MismatchError unless all files have statistics of the same tensors and axes.

    A tensor needs statistics of all models or of none: a weighted mean needs every model's share.
    """
    first, *rest = files.items()
    for name, other in rest:
        ours, theirs = (
            {shared.get(tensor, (tensor,))[0] for tensor in file.stored}
            for file in (first[1], other)
        )
        if ours != theirs:
            raise MismatchError(
                f"{first[0]} and {name} have statistics of different tensors: "
                f"{listed(sorted(ours ^ theirs))} only in one of them. "
                "Collect both with the same version of this program and of transformers."
            )
        turned = set(first[1].facts.inputs_first) ^ set(other.facts.inputs_first)
        if turned:
            raise MismatchError(
                f"the statistics of {first[0]} and {name} disagree about which axis of "
                f"{listed(sorted(turned))} the inputs are on. "
                "Collect both with the same version of this program and of transformers."
            )
