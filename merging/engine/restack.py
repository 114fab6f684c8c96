"""What the slices of a recipe mean: for each tensor of the output an ordinary recipe of that one tensor.

mergekit 0.1.5's rules, read off its plans:

* a gradient runs over each slice anew, t = i/(L−1); t is 1 in a slice of one layer and 0 outside the layers;
* a parameter that all inputs share is looked up under the output's name, one that each input has under the input's;
* of a source's own setting, its slice's and the recipe's, the first that says something at the tensor holds;
* embeddings come from the first slice's sources, the final norm and the head from the last slice's, and of these only
  as many as the first slice has;
* the base of a slice is one of its sources, never added.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Weights, dtype_of, shape_of
from merging.methods import _contract as methods
from merging.recipe import Recipe, settings
from merging.recipe.parts import Slice, SliceSource
from merging.recipe.settings import Setting
from merging.tensor_names import is_buffer, place


class SliceSpot(NamedTuple):
    """Where a tensor of the output comes from."""

    part: Slice
    offset: int | None
    """Its layer, counted from the first of the slice; None outside the layers."""

    @property
    def depth(self) -> float:
        """t of mergekit's gradients."""
        if self.offset is None:
            return 0.0
        return self.offset / (self.part.length - 1) if self.part.length > 1 else 1.0

    def name_in(self, source: SliceSource, name: str) -> str:
        """What a source calls the tensor that the output calls `name`."""
        return name if self.offset is None else renumbered(name, source.start + self.offset)


class TensorRecipe(NamedTuple):
    """One tensor of the output."""

    name: str
    recipe: Recipe
    """An ordinary recipe, all settings resolved to numbers; the whole one for integers and buffers, which are copied."""


def steps(recipe: Recipe, base: Weights) -> Iterator[TensorRecipe]:
    """For each tensor of a restacked base what to compute.

    Raises:
        RecipeError: when no rule gives a tensor the value that it needs.
        MismatchError: when the base has other layers than the slices make.
    """
    found = [(name, spot(recipe, name)) for name in base]
    layers = {place(name).layer for name in base} - {None}
    if layers != set(range(recipe.layers)):
        raise MismatchError(
            f"the slices make {recipe.layers} layers and the base passed has {len(layers)}. "
            "Open base and vectors with open_recipe, which restacks them."
        )
    for name, where in found:
        constant = not dtype_of(base, name).is_floating_point or is_buffer(
            name, len(shape_of(base, name))
        )
        yield TensorRecipe(name, recipe if constant else _resolved(recipe, where, name))


def spot(recipe: Recipe, name: str) -> SliceSpot:
    """Where a tensor of the output comes from, read from its name.

    Raises:
        MismatchError: for a layer that the slices do not make.
    """
    layer = place(name).layer
    if layer is None:
        return SliceSpot(recipe.slices[0] if comes_first(name) else recipe.last_slice, None)
    rest = layer
    for part in recipe.slices:
        if rest < part.length:
            return SliceSpot(part, rest)
        rest -= part.length
    raise MismatchError(
        f"{name} is of layer {layer}, and the slices make {recipe.layers} layers. Use open_recipe."
    )


def comes_first(name: str) -> bool:
    """Whether a tensor outside the layers stands before them: embeddings and what normalises them."""
    part = place(name).part
    return part == "embeddings" or (part != "head" and "emb" in name.lower())


def renumbered(name: str, layer: int) -> str:
    """The same tensor of another layer.

    >>> renumbered("model.layers.3.mlp.experts.0.w1.weight", 12)
    'model.layers.12.mlp.experts.0.w1.weight'
    """
    stack = place(name).stack
    rest = name[len(stack) + 1 :].partition(".")[2] if stack else name.partition(".")[2]
    return ".".join(filter(None, (stack, str(layer), rest)))


def _resolved(recipe: Recipe, where: SliceSpot, name: str) -> Recipe:
    """The ordinary recipe of one tensor of the output, all settings resolved there."""
    part, base = where.part, recipe.base_of(where.part)
    known = recipe.definition.parameters
    shared_keys = [param.name for param in known if not param.per_vector]
    own_keys = [methods.WEIGHT] * recipe.definition.weighted + [
        param.name for param in known if param.per_vector
    ]
    slice_scopes = (part.parameters, recipe.parameters)
    own = {}
    for source in part.sources:
        at = where.name_in(source, name)
        own[source.model] = _values((source.parameters, *slice_scopes), own_keys, at, where.depth)
        if (
            methods.WEIGHT in own_keys
            and methods.WEIGHT not in own[source.model]
            and source.model != base
        ):
            raise RecipeError(
                f"{source.model}: no rule for weight matches {at!r}. End the rules with one without a filter: {{value: 0}}."
            )
    try:
        one = recipe.of_slice(part, _values(slice_scopes, shared_keys, name, where.depth), own)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None
    return replace(one, exclude=(name,)) if recipe.only_base(part) else one


def _values(
    scopes: Sequence[Mapping[str, Setting]], keys: Sequence[str], name: str, depth: float
) -> dict[str, settings.Scalar]:
    """For each key the first value that a scope gives it at one tensor; keys that none does are left out."""
    found = {}
    for key in keys:
        given = (settings.resolve(scope[key], name, depth) for scope in scopes if key in scope)
        value = next((value for value in given if value is not None), None)
        if value is not None:
            found[key] = value
    return found


def filters_match(recipe: Recipe, base: Iterable[str]) -> None:
    """Every filter is a part of some tensor's name, in the output or in a source.

    Raises:
        RecipeError: naming the first that is not, and where it stands.
    """
    spots = [(name, spot(recipe, name)) for name in base]
    outputs = {name for name, _ in spots}
    names = outputs | {
        where.name_in(source, name) for name, where in spots for source in where.part.sources
    }
    wanted: list[tuple[str, str]] = []
    for number, part in enumerate(recipe.slices):
        scopes: list[tuple[str, Mapping[str, Any]]] = [("parameters", part.parameters)]
        scopes += [(source.model, source.parameters) for source in part.sources]
        wanted += [
            (f"slices[{number}]: {where}: {key}: the filter", text)
            for where, scope in scopes
            for key, setting in scope.items()
            for text in settings.filters(setting)
        ]
    wanted += [
        (f"parameters: {key}: the filter", text)
        for key, setting in recipe.parameters.items()
        for text in settings.filters(setting)
    ]
    parts = [("dem.include:", text) for text in recipe.include] + [
        ("dem.exclude:", text) for text in recipe.exclude
    ]
    for pool, rules in ((names, wanted), (outputs, parts)):
        for where, text in rules:
            if not any(text in name for name in pool):
                raise RecipeError(f"{where} {text!r} matches no tensor of the restacked model.")
