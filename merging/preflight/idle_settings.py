"""What stands in a recipe and changes nothing: keys that its method ignores, rules that no tensor is left for."""

from collections.abc import Iterator, Mapping, Sequence

from merging.engine import restack
from merging.inputs.checkpoint import Weights
from merging.preflight.problem import Problem
from merging.recipe import Recipe
from merging.recipe.settings import Setting


def without_effect(recipe: Recipe) -> list[Problem]:
    """Keys that mergekit's recipes may have and that change nothing."""
    given = {
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
        if key in given
    ]


def shadowed(recipe: Recipe, base: Weights) -> list[Problem]:
    """A warning for each rule with a filter that no tensor is left for; one that matches none at all is an error of task.

    A warning only, for mergekit carries such a recipe out and says nothing. A last rule without a filter is how rules are
    ended, whether or not a tensor is left for it.

    Args:
        recipe: what to merge.
        base: Θ, restacked where the recipe has slices.
    """
    problems = []
    for where, scope, names in _scopes(recipe, base):
        for key, setting in scope.items():
            for number, wanted in _idle(setting, names):
                problems.append(
                    Problem(
                        "warning",
                        "recipe",
                        f"{where}: {key}: rule {number} (filter {wanted!r}) never applies: rules before it match every tensor "
                        "that it matches, and the first that matches holds.",
                        "Put it before them, or leave it out.",
                    )
                )
    return problems


def _scopes(
    recipe: Recipe, base: Weights
) -> Iterator[tuple[str, Mapping[str, Setting], Sequence[str]]]:
    """Where settings stand, and the names of the tensors that they are looked up for."""
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
        for one in part.sources:
            own = [spot.name_in(one, name) for name, spot in inside]
            yield f"slices[{number}]: {one.model}", one.parameters, own
            every += own
        yield f"slices[{number}]: parameters", part.parameters, every
        of_parts += every
    yield "parameters", recipe.parameters, of_parts


def _number(recipe: Recipe, name: str, spot: restack.SliceSpot) -> int:
    """Which slice a tensor comes from; of what stands after the layers, whose spot may have fewer sources, the last."""
    if spot.offset is None and not restack.comes_first(name):
        return len(recipe.slices) - 1
    return next(number for number, part in enumerate(recipe.slices) if part is spot.part)


def _idle(setting: Setting, names: Sequence[str]) -> list[tuple[int, str]]:
    """The rules, counted from 1, that match tensors and get none, and their filters."""
    if not (isinstance(setting, list) and isinstance(setting[0], dict)):
        return []
    found, left = [], list(names)
    for number, rule in enumerate(setting, 1):
        wanted = rule.get("filter")
        everything = wanted in (None, "*")
        matched = any(everything or wanted in name for name in names)
        kept = [name for name in left if not everything and wanted not in name]
        if not everything and matched and len(kept) == len(left):
            found.append((number, wanted))
        left = kept
    return found
