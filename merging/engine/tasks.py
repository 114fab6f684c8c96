"""Tasks: a recipe's settings resolved to all that decides one tensor of the result, from names and shapes only."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch

from merging.dtypes import DTYPES
from merging.engine import recipe_statistics, restack
from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Weights, dtype_of, shape_of
from merging.inputs.statistics import Statistics
from merging.inputs.vector import Vector
from merging.methods._contract import WEIGHT, Method
from merging.recipe import ModelEntry, Recipe, settings
from merging.tensor_names import is_buffer, place
from plumbing.suggest import listed


class Task(NamedTuple):
    """All that decides one tensor of the result. Equal tasks give equal bits."""

    name: str
    shape: tuple[int, ...]
    out_dtype: torch.dtype
    method: Method
    vectors: tuple[str, ...] = ()
    """The vectors that take part, in the recipe's order; none means that the base's tensor is copied."""
    omegas: tuple[float, ...] = ()
    arguments: tuple[tuple[str, Any], ...] = ()
    space: Literal["deltas", "weights"] = "deltas"
    """What is combined: the differences, to be added to the base, or the fine-tuned weights."""
    depth: float | None = None
    """i/(L−1) of its layer; None outside the layers."""
    seed: int = 0
    """The recipe's."""
    statistics: tuple[Statistics, ...] = ()
    """Of each vector, for methods that need them."""
    stochastic: bool = False
    """Round to the output dtype at random, without bias."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def tasks(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]) -> list[Task]:
    """What to compute for each tensor of the base: the recipe's settings resolved, from names and shapes only.

    Raises:
        RecipeError: a vector that is not there, ω that sum to nothing, a filter that matches no tensor.
        MismatchError: when a vector was made for another base.
    """
    if isinstance(base, Vector):
        raise TypeError(f"{base.name} is a vector of differences; the base must be weights")
    _all_there(recipe, base, vectors)
    depths = _depths(base)
    if recipe.slices:
        restack.filters_match(recipe, base)
        return [
            _task(one, base, vectors, name, depths[name], {})
            for name, one in restack.steps(recipe, base)
        ]
    _filters_match(recipe, base)
    files = recipe_statistics.of(recipe, base, vectors)
    closed = _closed_form(recipe, base, vectors)
    found = [_task(recipe, base, vectors, name, depths[name], closed) for name in base]
    return (
        [task._replace(statistics=tuple(files[name] for name in task.vectors)) for task in found]
        if files
        else found
    )


def effective_weights(
    recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]
) -> dict[str, dict[str, float | None]]:
    """Tensor -> vector -> the ω that it has there, all settings resolved; 0 where a vector takes no part.

    None in each place of a tensor that is the base's, whatever the ω: integers, buffers, what is excluded.
    """
    rows: dict[str, dict[str, float | None]] = {}
    for task in tasks(recipe, base, vectors):
        own = dict(zip(task.vectors, task.omegas, strict=True))
        merged = chosen(recipe, task.name) and dtype_of(base, task.name).is_floating_point
        rows[task.name] = {
            source.name: own.get(source.name, 0.0)
            if merged and not is_buffer(task.name, len(task.shape))
            else None
            for source in recipe.models
        }
    return rows


def chosen(recipe: Recipe, name: str) -> bool:
    """Whether a recipe's include and exclude let a tensor be merged."""
    included = not recipe.include or any(part in name for part in recipe.include)
    return included and not any(part in name for part in recipe.exclude)


def space_of(recipe: Recipe) -> Literal["deltas", "weights"]:
    """What a recipe combines: differences from its base, or weights."""
    space = recipe.definition.space
    if space == "either":
        return "weights" if recipe.base is None else "deltas"
    found: Literal["deltas", "weights"] = space
    return found


def out_dtype_of(recipe: Recipe, stored: torch.dtype) -> torch.dtype:
    """The dtype in which a tensor is written: out_dtype, else dtype, else the base's; integers stay as they are."""
    named = recipe.out_dtype or recipe.dtype
    return DTYPES[named] if named and stored.is_floating_point else stored


def _task(
    recipe: Recipe,
    base: Weights,
    vectors: Mapping[str, Vector],
    name: str,
    depth: float | None,
    closed: Mapping[str, float],
) -> Task:
    stored = dtype_of(base, name)
    shape = shape_of(base, name)
    if not stored.is_floating_point or is_buffer(name, len(shape)):
        return Task(name, shape, stored, recipe.definition)
    method, space = recipe.definition, space_of(recipe)
    out = out_dtype_of(recipe, stored)
    copied = Task(
        name, shape, out, method, seed=recipe.seed, stochastic=recipe.rounding == "stochastic"
    )
    if not chosen(recipe, name):
        return copied
    shared = _shared(recipe, name, depth)
    active = [
        (source, closed.get(source.name, _omega(recipe, source, name, depth)))
        for source in recipe.models
    ]
    droppable = method.weighted and method.vectors[0] == 1
    if droppable:
        # A vector at ω = 0 adds nothing, but 0·∞ and the sign of −0 would: it is left out, not multiplied.
        active = [(source, omega) for source, omega in active if omega != 0]
    if space == "weights" and not active:
        raise RecipeError(
            f"{name}: all ω are 0, so that {recipe.method} has nothing to average. Set one."
        )
    counted = shared.get("normalize", method.default("normalize"))
    if droppable and space == "deltas" and not counted:
        # So is an adapter where it changes nothing, unless its ω counts in a divisor.
        active = [(source, omega) for source, omega in active if name in vectors[source.name]]
    if space == "deltas" and not any(name in vectors[source.name] for source, _ in active):
        return copied
    omegas = tuple(omega for _, omega in active)
    given = shared | _for_each(recipe, [source for source, _ in active], name, depth)
    arguments = method.arguments(given, len(active))
    if method.refusal is not None and (why := method.refusal(omegas, arguments)):
        raise RecipeError(f"{recipe.method} at {name}: {why}")
    return copied._replace(
        vectors=tuple(source.name for source, _ in active),
        omegas=omegas,
        arguments=tuple(sorted(arguments.items())),
        space=space,
        depth=depth,
    )


def _shared(recipe: Recipe, name: str, depth: float | None) -> dict[str, Any]:
    """The values at one tensor of the parameters that all vectors share."""
    found = {}
    for param in recipe.definition.parameters:
        if not param.per_vector and param.name in recipe.parameters:
            found[param.name] = settings.resolve(recipe.parameters[param.name], name, depth or 0.0)
    return {key: value for key, value in found.items() if value is not None}


def _for_each(
    recipe: Recipe, sources: list[ModelEntry], name: str, depth: float | None
) -> dict[str, tuple[Any, ...]]:
    """The values at one tensor of the parameters that each vector has: its own, else the recipe's, else the default."""
    found = {}
    for param in recipe.definition.parameters:
        if param.per_vector:
            values = []
            for source in sources:
                value = _setting(recipe, source, param.name, name, depth)
                values.append(param.default if value is None else value)
            found[param.name] = tuple(values)
    return found


def _setting(
    recipe: Recipe, source: ModelEntry, key: str, name: str, depth: float | None
) -> settings.Scalar | None:
    """A model's own setting at one tensor, else the recipe's; None where neither says anything."""
    for scope in (source.parameters, recipe.parameters):
        if key in scope:
            value = settings.resolve(scope[key], name, depth or 0.0)
            if value is not None:
                return value
    return None


def _omega(recipe: Recipe, source: ModelEntry, name: str, depth: float | None) -> float:
    """ω of one model at one tensor; 1 for methods without ω."""
    if not recipe.definition.weighted:
        return 1.0
    value = _setting(recipe, source, WEIGHT, name, depth)
    if value is None:
        raise RecipeError(
            f"{source.name}: no rule for weight matches {name!r}. End the rules with one without a filter: {{value: 0}}."
        )
    return float(value)


def _closed_form(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]) -> dict[str, float]:
    """ω of the methods that compute them from the lengths of the whole vectors, which are read for it."""
    closed_form = recipe.definition.closed_form
    if closed_form is None:
        return {}
    names = [source.name for source in recipe.models]
    return dict(
        zip(names, closed_form(tuple(vectors[name].squared_length for name in names)), strict=True)
    )


def _all_there(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]) -> None:
    for source in recipe.models:
        if source.name not in vectors:
            raise RecipeError(
                f"the recipe names {source.name!r}, and only {listed(sorted(vectors)) or 'none'} is loaded."
            )
        if strange := [name for name in vectors[source.name] if name not in base]:
            raise MismatchError(
                f"{source.name} changes {listed(strange)}, which the base lacks: it is of another base."
            )


def _filters_match(recipe: Recipe, base: Iterable[str]) -> None:
    names = list(base)
    asked = [("dem.include:", part) for part in recipe.include] + [
        ("dem.exclude:", part) for part in recipe.exclude
    ]
    scopes = [
        ("parameters", recipe.parameters),
        *((source.name, source.parameters) for source in recipe.models),
    ]
    for where, scope in scopes:
        for key, setting in scope.items():
            asked += [(f"{where}: {key}: the filter", part) for part in settings.filters(setting)]
    lost = [
        f"{where} {part!r} matches no tensor of the base."
        for where, part in asked
        if not any(part in name for name in names)
    ]
    if lost:
        raise RecipeError("\n".join(lost))


def _depths(base: Iterable[str]) -> dict[str, float | None]:
    """Name -> i/(L−1) of its layer, as mergekit counts: 1 where there is one layer; None outside the layers."""
    places = {name: place(name) for name in base}
    layers: dict[str, int] = {}
    for where in places.values():
        if where.layer is not None:
            layers[where.stack] = max(layers.get(where.stack, 0), where.layer)
    return {
        name: None
        if where.layer is None
        else (where.layer / layers[where.stack] if layers[where.stack] else 1.0)
        for name, where in places.items()
    }
