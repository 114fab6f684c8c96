"""Resolves a recipe to tasks: one task holds all that decides one tensor of the merged model.

Only names, shapes and dtypes are read, unless a method computes ω from whole vectors.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from merging.dtypes import DTYPES
from merging.engine import recipe_statistics, restack
from merging.engine.recipe_fit import check_filters, check_vectors
from merging.engine.shared_tensors import shared_tensors
from merging.engine.task import Task
from merging.engine.task_vectors import check_one_move, under_first_name
from merging.errors import RecipeError
from merging.inputs.checkpoint import Weights, dtype_of, shape_of
from merging.inputs.statistics import Statistics
from merging.inputs.vector import Vector
from merging.methods._contract import WEIGHT
from merging.recipe import ModelEntry, Recipe, settings
from merging.tensor_names import depths_of, is_buffer


def tasks(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]) -> list[Task]:
    """Returns the task of each tensor of the base, in the base's order.

    Args:
        recipe: the merge.
        base: Θ.
        vectors: the vectors that the recipe names, by those names.

    Raises:
        RecipeError: if a vector is missing, all ω of an average are 0, or a filter matches no
            tensor.
        MismatchError: if a vector belongs to another base, or moves one tensor in two ways.
        TypeError: if `base` is a vector.
    """
    # A vector is a mapping of tensors too; as a base it would give wrong weights without an error.
    if isinstance(base, Vector):
        raise TypeError(f"{base.name} is a vector of differences; the base must be weights")
    check_vectors(recipe, base, vectors)
    depths = depths_of(base)
    # Only those that the recipe names: a live model may hold others, and an export does not.
    named = [vectors[source.name] for source in recipe.models]
    shared = shared_tensors(base, named)
    for names in dict.fromkeys(shared.values()):
        for vector in named:
            check_one_move(vector, names)
    files: Mapping[str, Statistics] = {}
    closed: Mapping[str, float] = {}
    # check_slices has refused methods that need statistics or lengths of whole models.
    if recipe.slices:
        restack.check_filters(recipe, base)
        recipes = dict(restack.tensor_recipes(recipe, base))
    else:
        check_filters(recipe, base)
        recipes = dict.fromkeys(base, recipe)
        files = recipe_statistics.open_statistics(recipe, base, vectors, shared)
        closed = _closed_form(recipe, vectors, shared)
    resolved: dict[str, Task] = {}
    for name, own in recipes.items():
        names = shared.get(name, (name,))
        if name != names[0]:
            _check_alike(recipes, names, name, depths)
            resolved[name] = resolved[names[0]]._replace(name=name)
            continue
        seen = vectors
        if name in shared:
            seen = {key: under_first_name(vector, names) for key, vector in vectors.items()}
        task = _task(own, base, seen, name, depths[name], closed)
        statistics = tuple(files[key] for key in task.vectors) if files else ()
        resolved[name] = task._replace(names=shared.get(name, ()), statistics=statistics)
    return list(resolved.values())


def _check_alike(
    recipes: Mapping[str, Recipe],
    names: tuple[str, ...],
    name: str,
    depths: Mapping[str, float | None],
) -> None:
    """Checks that a recipe says the same of a tensor's first name and of another of its names.

    Args:
        recipes: the recipe at each tensor.
        names: all names of the tensor.
        name: the other name.
        depths: the depth of each tensor.

    Raises:
        RecipeError: if it does not; the message has all names.
    """
    ours, theirs = (_settings_of(recipes[each], each, depths[each]) for each in (names[0], name))
    if ours == theirs:
        return
    if bool(ours) != bool(theirs):
        taken, left = (names[0], name) if ours else (name, names[0])
        how = f"include and exclude take {taken} and leave {left} out"
    else:
        how = f"its rules or gradients give {name} other settings than {names[0]}"
    raise RecipeError(
        f"This base stores one tensor under {len(names)} names, {', '.join(names)}; {how}. "
        "Give filters, include and exclude that take all of these names or none, and no gradient "
        "over them."
    )


def _settings_of(recipe: Recipe, name: str, depth: float | None) -> tuple[Any, ...]:
    """Returns all that a recipe says of one tensor; () if it leaves the tensor as the base's."""
    if not is_selected(recipe, name):
        return ()
    models = list(recipe.models)
    omegas = [_omega(recipe, source, name, depth) for source in models]
    own = _for_each_vector(recipe, models, name, depth)
    return [source.name for source in models], omegas, _shared(recipe, name, depth), own


def effective_weights(
    recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]
) -> dict[str, dict[str, float | None]]:
    """Returns tensor -> vector -> its ω at that tensor, with all settings resolved.

    ω is 0 if the vector takes no part there. It is None if the tensor is copied from the base
    whatever the ω: integers, buffers and excluded tensors.
    """
    rows: dict[str, dict[str, float | None]] = {}
    for task in tasks(recipe, base, vectors):
        own = dict(zip(task.vectors, task.omegas, strict=True))
        merged = is_selected(recipe, task.name) and dtype_of(base, task.name).is_floating_point
        rows[task.name] = {
            source.name: own.get(source.name, 0.0)
            if merged and not is_buffer(task.name, len(task.shape))
            else None
            for source in recipe.models
        }
    return rows


def is_selected(recipe: Recipe, name: str) -> bool:
    """Reports whether a recipe's include and exclude let a tensor be merged."""
    included = not recipe.include or any(part in name for part in recipe.include)
    return included and not any(part in name for part in recipe.exclude)


def space_of(recipe: Recipe) -> Literal["deltas", "weights"]:
    """Returns what a recipe combines: differences from its base, or weights."""
    space = recipe.definition.space
    if space == "either":
        return "weights" if recipe.base is None else "deltas"
    fixed: Literal["deltas", "weights"] = space
    return fixed


def out_dtype_of(recipe: Recipe, stored: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a tensor is written.

    It is the recipe's out_dtype, else its dtype, else the base's. Integers keep their dtype.
    """
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
    """Resolves a recipe at one tensor; `closed` holds ω that the method computes itself."""
    stored = dtype_of(base, name)
    shape = shape_of(base, name)
    # Integers, and constants of the code such as a causal mask, have no meaning as differences.
    # They keep their own dtype, whatever the recipe's is.
    if not stored.is_floating_point or is_buffer(name, len(shape)):
        return Task(name, shape, stored, recipe.definition)
    method, space = recipe.definition, space_of(recipe)
    out = out_dtype_of(recipe, stored)
    copied = Task(
        name, shape, out, method, seed=recipe.seed, stochastic=recipe.rounding == "stochastic"
    )
    if not is_selected(recipe, name):
        return copied
    shared = _shared(recipe, name, depth)
    active = [
        (source, closed.get(source.name, _omega(recipe, source, name, depth)))
        for source in recipe.models
    ]
    # Only a method that accepts a single vector can do without one of them.
    droppable = method.weighted and method.vectors[0] == 1
    if droppable:
        # A vector at ω = 0 must add nothing, but 0·∞ is NaN and −0 + 0 is 0: leave it out.
        active = [(source, omega) for source, omega in active if omega != 0]
    if space == "weights" and not active:
        raise RecipeError(
            f"{name}: all ω are 0, so {recipe.method} has nothing to average. "
            "Set one that is not 0."
        )
    normalize = shared.get("normalize", method.default("normalize"))
    if droppable and space == "deltas" and not normalize:
        # So is an adapter at a tensor that it does not change, unless its ω counts in a divisor.
        active = [(source, omega) for source, omega in active if name in vectors[source.name]]
    # Deltas of zeros give zeros in every method, so the base's tensor is copied.
    if space == "deltas" and not any(name in vectors[source.name] for source, _ in active):
        return copied
    omegas = tuple(omega for _, omega in active)
    own = _for_each_vector(recipe, [source for source, _ in active], name, depth)
    arguments = method.arguments(shared | own, len(active))
    # Asked at each tensor, because rules and gradients can make ω sum to 0 in one layer only.
    if method.refusal is not None and (why := method.refusal(omegas, arguments)):
        raise RecipeError(f"{recipe.method} at {name}: {why}")
    return copied._replace(
        vectors=tuple(source.name for source, _ in active),
        omegas=omegas,
        # Sorted, because the live model compares tasks to find what it must compute again.
        arguments=tuple(sorted(arguments.items())),
        space=space,
        depth=depth,
    )


def _shared(recipe: Recipe, name: str, depth: float | None) -> dict[str, Any]:
    """Returns the values at one tensor of the parameters that all vectors share."""
    values = {}
    for param in recipe.definition.parameters:
        if not param.per_vector and param.name in recipe.parameters:
            values[param.name] = settings.resolve(recipe.parameters[param.name], name, depth or 0.0)
    return {key: value for key, value in values.items() if value is not None}


def _for_each_vector(
    recipe: Recipe, sources: list[ModelEntry], name: str, depth: float | None
) -> dict[str, tuple[Any, ...]]:
    """Returns the values at one tensor of the parameters that each vector has.

    A value is the model's own, else the recipe's, else the parameter's default.
    """
    arguments = {}
    for param in recipe.definition.parameters:
        if param.per_vector:
            values = []
            for source in sources:
                value = _setting(recipe, source, param.name, name, depth)
                values.append(param.default if value is None else value)
            arguments[param.name] = tuple(values)
    return arguments


def _setting(
    recipe: Recipe, source: ModelEntry, key: str, name: str, depth: float | None
) -> settings.Scalar | None:
    """Returns a model's own setting at one tensor, else the recipe's; None if neither sets it."""
    # mergekit's order of scopes; one whose rules match nothing leaves the value to the next.
    # Outside the layers a gradient is resolved at 0, so it gives its first value.
    for scope in (source.parameters, recipe.parameters):
        if key in scope:
            value = settings.resolve(scope[key], name, depth or 0.0)
            if value is not None:
                return value
    return None


def _omega(recipe: Recipe, source: ModelEntry, name: str, depth: float | None) -> float:
    """Returns ω of one model at one tensor; 1 for methods without ω."""
    if not recipe.definition.weighted:
        return 1.0
    value = _setting(recipe, source, WEIGHT, name, depth)
    # No default: it would hide that the last rule was forgotten.
    if value is None:
        raise RecipeError(
            f"{source.name}: no rule for weight matches {name!r}. "
            "End the rules with one without a filter: {value: 0}."
        )
    return float(value)


def _closed_form(
    recipe: Recipe, vectors: Mapping[str, Vector], shared: Mapping[str, tuple[str, ...]]
) -> dict[str, float]:
    """Returns ω by vector for methods that compute it from the lengths of whole vectors.

    Empty for other methods. The vectors are read for it, once: they remember their lengths. A
    tensor with several names counts once.
    """
    closed_form = recipe.definition.closed_form
    if closed_form is None:
        return {}
    lengths = {
        source.name: sum(
            length
            for name, length in vectors[source.name].squared_lengths.items()
            if name
            == next(each for each in shared.get(name, (name,)) if each in vectors[source.name])
        )
        for source in recipe.models
    }
    return dict(zip(lengths, closed_form(tuple(lengths.values())), strict=True))
