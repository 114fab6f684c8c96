"""The one loop: a recipe, a base and its vectors -> tensors of the merged model, in bounded memory.

The live model, the export and the statistics all consume it, so they cannot disagree. The rules of its arithmetic:

* computed in float32 (float64 where the base is), rounded once, at the end, to the output dtype;
* in a fixed order, each operation rounded by itself: the bits do not depend on block size, threads or history;
* every tensor of the base comes out. One that nothing moves is the base's, bit for bit.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging import method as methods
from merging import settings
from merging.checkpoint import Weights, dtype_of, read_block, shape_of
from merging.errors import MismatchError, RecipeError, listed
from merging.method import Site
from merging.names import is_buffer, place
from merging.recipe import DTYPES, Recipe, Source
from merging.vector import Vector, working_dtype

BLOCK = 2**18
"""Elements computed at once by element methods: a megabyte of float32, which stays in the cache of a core."""


class Task(NamedTuple):
    """All that decides one tensor of the result. Equal tasks give equal bits."""

    name: str
    shape: tuple[int, ...]
    out_dtype: torch.dtype
    method: str
    vectors: tuple[str, ...]
    """The vectors that take part, in the recipe's order; none means that the base's tensor is copied."""
    omegas: tuple[float, ...]
    arguments: tuple[tuple[str, Any], ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Block(NamedTuple):
    """A finished piece of one tensor of the result."""

    task: Task
    start: int
    """Its first element, counted in the flattened tensor."""
    values: Tensor
    """1-D, in the task's output dtype."""


def merge(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the merged model, under the base's names and in the base's order.

    Args:
        recipe: what to do.
        base: Θ.
        vectors: the vectors that the recipe names, by those names.

    Raises:
        RecipeError: when the recipe cannot be carried out on these weights.
    """
    for task in tasks(recipe, base, vectors):
        yield task.name, tensor(task, base, vectors)


def tensor(task: Task, base: Weights, vectors: Mapping[str, Vector]) -> Tensor:
    """One tensor of the result, in its shape and output dtype."""
    out = torch.empty(task.numel, dtype=task.out_dtype)
    for block in blocks(task, base, vectors):
        out[block.start : block.start + block.values.numel()] = block.values
    return out.view(task.shape)


def tasks(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]) -> list[Task]:
    """What to compute for each tensor of the base: the recipe's settings resolved, from names and shapes only.

    Raises:
        RecipeError: a vector that is not there, ω that sum to nothing, a filter that matches no tensor.
        MismatchError: when a vector was made for another base.
    """
    if isinstance(base, Vector):
        raise TypeError(f"{base.name} is a vector of differences; the base must be weights")
    module = methods.load(recipe.method)
    _all_there(recipe, base, vectors)
    _filters_match(recipe, base)
    depths = _depths(base)
    return [_task(recipe, base, vectors, name, module.SPACE, depths[name]) for name in base]


def blocks(task: Task, base: Weights, vectors: Mapping[str, Vector]) -> Iterator[Block]:
    """One tensor of the result in finished pieces, in order, none larger than BLOCK for element methods."""
    module = methods.load(task.method)
    size = BLOCK if module.SCOPE == "element" or not task.vectors else max(task.numel, 1)
    for start in range(0, task.numel, size):
        stop = min(start + size, task.numel)
        stored = read_block(base, task.name, start, stop)
        if not task.vectors:
            yield Block(task, start, stored.to(task.out_dtype))
            continue
        values = _combined(task, module, stored.to(working_dtype(stored.dtype)), vectors, (start, stop))
        yield Block(task, start, values.to(task.out_dtype))


def _combined(task: Task, module: Any, base: Tensor, vectors: Mapping[str, Vector], span: tuple[int, int]) -> Tensor:
    """One block in the working dtype, before it is rounded."""
    stack = base.new_empty((len(task.vectors), base.numel()))
    for row, name in zip(stack, task.vectors, strict=True):
        vector = vectors[name]
        read = vector.block if module.SPACE == "deltas" else vector.weights_block
        row.copy_(read(task.name, *span))
    shape = (-1,) if module.SCOPE == "element" else task.shape
    site = Site(task.name, base.view(shape))
    omegas = torch.tensor(task.omegas, dtype=base.dtype)
    result: Tensor = module.combine(stack.view(len(stack), *shape), omegas, site, **dict(task.arguments)).reshape(-1)
    return result.add_(base) if module.SPACE == "deltas" else result


def out_dtype_of(recipe: Recipe, stored: torch.dtype) -> torch.dtype:
    """The dtype in which a tensor is written: out_dtype, else dtype, else the base's; integers stay as they are."""
    named = recipe.out_dtype or recipe.dtype
    return DTYPES[named] if named and stored.is_floating_point else stored


def _task(recipe: Recipe, base: Weights, vectors: Mapping[str, Vector], name: str, space: str, depth: float) -> Task:
    stored = dtype_of(base, name)
    shape = shape_of(base, name)
    if not stored.is_floating_point or is_buffer(name, len(shape)):
        return Task(name, shape, stored, recipe.method, (), (), ())
    out = out_dtype_of(recipe, stored)
    given = {
        key: settings.resolve(value, name, depth) for key, value in recipe.parameters.items() if key != methods.WEIGHT
    }
    arguments = methods.arguments(recipe.method, {key: value for key, value in given.items() if value is not None})
    weighted = [(source.name, _omega(recipe, source, name, depth)) for source in recipe.models]
    # A vector at ω = 0 adds nothing, but 0·∞ and the sign of −0 would: it is left out, not multiplied. So is an adapter
    # where it changes nothing, unless its weights are averaged.
    active = [
        (vector, omega) for vector, omega in weighted if omega != 0 and (space == "weights" or name in vectors[vector])
    ]
    if not active and space == "deltas":
        return Task(name, shape, out, recipe.method, (), (), ())
    if not active:
        raise RecipeError(f"{name}: all ω are 0, so that {recipe.method} has nothing to average. Set one.")
    if arguments.get("normalize"):
        divisor = sum(omega for _, omega in weighted)
        if abs(divisor) < 1e-8:
            raise RecipeError(
                f"{name}: the ω sum to 0 and {recipe.method} divides by their sum. Change one, or normalize: false."
            )
        if space == "deltas":
            # The ω of an adapter that does not reach this tensor still counts in the divisor.
            arguments["normalize"] = False
            active = [(vector, omega / divisor) for vector, omega in active]
    chosen, omegas = zip(*active, strict=True)
    return Task(name, shape, out, recipe.method, chosen, omegas, tuple(sorted(arguments.items())))


def _omega(recipe: Recipe, source: Source, name: str, depth: float) -> float:
    """ω of one model at one tensor: the model's own setting, else the recipe's."""
    for scope in (source.parameters, recipe.parameters):
        if methods.WEIGHT in scope:
            value = settings.resolve(scope[methods.WEIGHT], name, depth)
            if value is not None:
                return float(value)
    raise RecipeError(
        f"{source.name}: no rule for weight matches {name!r}. End the rules with one without a filter: {{value: 0}}."
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
    scopes = [("parameters", recipe.parameters), *((source.name, source.parameters) for source in recipe.models)]
    for where, scope in scopes:
        for key, setting in scope.items():
            for wanted in settings.filters(setting):
                if not any(wanted in name for name in base):
                    raise RecipeError(f"{where}: {key}: the filter {wanted!r} matches no tensor of the base.")


def _depths(base: Iterable[str]) -> dict[str, float]:
    """Name -> i/(L−1) of its layer, as mergekit counts: 1 where there is one layer, 0 outside the layers."""
    places = {name: place(name) for name in base}
    layers: dict[str, int] = {}
    for where in places.values():
        if where.layer is not None:
            layers[where.stack] = max(layers.get(where.stack, 0), where.layer)
    return {
        name: 0.0 if where.layer is None else (where.layer / layers[where.stack] if layers[where.stack] else 1.0)
        for name, where in places.items()
    }
