"""Finds settings of a recipe that change nothing: ignored keys, and rules that never apply."""

from collections.abc import Iterator, Mapping, Sequence

from merging.engine import restack
from merging.inputs.checkpoint import Weights
from merging.preflight.problem import Problem
from merging.recipe import Recipe
from merging.recipe.settings import Setting


def ignored_keys(recipe: Recipe) -> list[Problem]:
    """Returns a warning for each key that mergekit allows and that the method ignores."""
    present = {
        **recipe.parameters,
        **{key: 0 for source in recipe.models for key in source.parameters},
    }
    return [
        Problem(
            "warning",
            "recipe",
            f"parameters.{key} has no effect on {recipe.method}, here as in mergekit.",
            "Leave it out, or choose a method that has it.",
        )
        for key in recipe.definition.ignored
        if key in present
    ]


def shadowed_rules(recipe: Recipe, base: Weights) -> list[Problem]:
    """Returns a warning for each filter rule whose tensors all match earlier rules.

    It is only a warning because mergekit runs such a recipe and says nothing. A filter that matches
    no tensor at all is an error of merging.engine.tasks. A last rule without a filter is never
    reported: it is the usual way to end a list of rules.

    Args:
        recipe: the recipe to merge.
        base: Θ; restacked if the recipe has slices.
    """
    problems = []
    for where, scope, names in _scopes(recipe, base):
        for key, setting in scope.items():
            for number, wanted in _idle_rules(setting, names):
                problems.append(
                    Problem(
                        "warning",
                        "recipe",
                        f"{where}: {key}: rule {number} (filter {wanted!r}) never applies: rules "
                        "before it match every tensor that it matches, and the first match counts.",
                        "Move it before them, or leave it out.",
                    )
                )
    return problems


def _scopes(
    recipe: Recipe, base: Weights
) -> Iterator[tuple[str, Mapping[str, Setting], Sequence[str]]]:
    """Yields each block of settings: its place in the recipe, the settings, and their tensors."""
    if not recipe.slices:
        yield "parameters", recipe.parameters, list(base)
        for source in recipe.models:
            yield source.name, source.parameters, list(base)
        return
    spots = [(name, restack.spot(recipe, name)) for name in base]
    of_parts: list[str] = []
    for number, part in enumerate(recipe.slices):
        inside = [(name, spot) for name, spot in spots if _number(recipe, name, spot) == number]
        every = [name for name, _ in inside]
        for column in part.sources:
            # Filters see the tensor's name in the source, whose layers have other numbers.
            own = [spot.name_in(column, name) for name, spot in inside]
            yield f"slices[{number}]: {column.model}", column.parameters, own
            # Settings of a slice are looked up under the output's names if all inputs share them,
            # else under the sources' names.
            every += own
        yield f"slices[{number}]: parameters", part.parameters, every
        of_parts += every
    yield "parameters", recipe.parameters, of_parts


def _number(recipe: Recipe, name: str, spot: restack.SliceSpot) -> int:
    """Returns the number of the slice from which a tensor comes.

    Tensors after the layers come from the last slice; their spot may be a copy of it with fewer
    sources, so it is not searched for.
    """
    if spot.offset is None and not restack.comes_first(name):
        return len(recipe.slices) - 1
    return next(number for number, part in enumerate(recipe.slices) if part is spot.part)


def _idle_rules(setting: Setting, names: Sequence[str]) -> list[tuple[int, str]]:
    """Returns number (from 1) and filter of each rule that matches tensors but gets none."""
    if not (isinstance(setting, list) and isinstance(setting[0], dict)):
        return []
    idle, left = [], list(names)
    for number, rule in enumerate(setting, 1):
        wanted = rule.get("filter")
        # In mergekit the filter * matches every name; all other filters are plain substrings.
        everything = wanted in (None, "*")
        matched = any(everything or wanted in name for name in names)
        kept = [name for name in left if not everything and wanted not in name]
        if not everything and matched and len(kept) == len(left):
            idle.append((number, wanted))
        left = kept
    return idle
