"""Resolves the slices of a recipe to an ordinary recipe for each tensor of the output.

The rules are mergekit 0.1.5's, read off its plans:

* A gradient starts anew in each slice: t = i/(L−1) at layer i of the slice's L. t is 1 in a slice
  of one layer and 0 outside the layers.
* A parameter that all inputs share is looked up under the output's tensor name. A parameter that
  each input has is looked up under the input's tensor name.
* A source's own setting comes before its slice's, and that before the recipe's. The first of them
  that gives the tensor a value holds.
* Embeddings come from the first slice's sources. The final norm and the head come from the last
  slice's sources, but from only as many as the first slice has.
* The base of a slice is one of its sources. It is never added to them.
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
    """The slice and layer from which a tensor of the output comes."""

    part: Slice
    offset: int | None
    """The layer, counted from the slice's first layer; None outside the layers."""

    @property
    def depth(self) -> float:
        """t of mergekit's gradients, 0 to 1."""
        # mergekit's quirk: the head and the final norm get a gradient's first value, not its last.
        if self.offset is None:
            return 0.0
        return self.offset / (self.part.length - 1) if self.part.length > 1 else 1.0

    def name_in(self, source: SliceSource, name: str) -> str:
        """Returns a source's name for the tensor that is called `name` in the output."""
        return name if self.offset is None else renumber(name, source.start + self.offset)


class TensorRecipe(NamedTuple):
    """The recipe of one tensor of the output."""

    name: str
    recipe: Recipe
    """An ordinary recipe with all settings resolved to numbers.

    For integers and buffers, which are copied, it is the recipe with slices itself.
    """


def tensor_recipes(recipe: Recipe, base: Weights) -> Iterator[TensorRecipe]:
    """Yields the recipe of each tensor of a restacked base.

    Raises:
        RecipeError: if no rule gives a tensor a value that it needs.
        MismatchError: if the base does not have the layers that the slices make.
    """
    spots = [(name, spot(recipe, name)) for name in base]
    layers = {place(name).layer for name in base} - {None}
    if layers != set(range(recipe.layers)):
        raise MismatchError(
            f"the slices make {recipe.layers} layers, but the base has {len(layers)}. "
            "Open base and vectors with open_recipe, which restacks them."
        )
    # Integers and buffers are copied, so no setting needs to give them a value.
    for name, origin in spots:
        constant = not dtype_of(base, name).is_floating_point or is_buffer(
            name, len(shape_of(base, name))
        )
        yield TensorRecipe(name, recipe if constant else _resolve(recipe, origin, name))


def spot(recipe: Recipe, name: str) -> SliceSpot:
    """Returns the slice and layer from which a tensor of the output comes, judging by its name.

    Raises:
        MismatchError: for a layer beyond those that the slices make.
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
        f"{name} belongs to layer {layer}, but the slices make only {recipe.layers} layers. "
        "Open base and vectors with open_recipe, which restacks them."
    )


def comes_first(name: str) -> bool:
    """Reports whether a tensor outside the layers precedes them: embeddings and their norms."""
    part = place(name).part
    # Words of the name decide, because there is no table of architectures. A norm of the
    # embeddings, such as word_embeddings_layernorm, precedes the layers; the final norm follows
    # them.
    return part == "embeddings" or (part != "head" and "emb" in name.lower())


def renumber(name: str, layer: int) -> str:
    """Returns the name of the same tensor in another layer.

    >>> renumber("model.layers.3.mlp.experts.0.w1.weight", 12)
    'model.layers.12.mlp.experts.0.w1.weight'
    """
    stack = place(name).stack
    rest = name[len(stack) + 1 :].partition(".")[2] if stack else name.partition(".")[2]
    return ".".join(filter(None, (stack, str(layer), rest)))


def _resolve(recipe: Recipe, origin: SliceSpot, name: str) -> Recipe:
    """Returns the ordinary recipe of one tensor of the output, with all settings resolved."""
    part, base = origin.part, recipe.base_of(origin.part)
    parameters = recipe.definition.parameters
    shared_keys = [param.name for param in parameters if not param.per_vector]
    own_keys = [methods.WEIGHT] * recipe.definition.weighted + [
        param.name for param in parameters if param.per_vector
    ]
    slice_scopes = (part.parameters, recipe.parameters)
    own = {}
    for source in part.sources:
        source_name = origin.name_in(source, name)
        scopes = (source.parameters, *slice_scopes)
        own[source.model] = _values(scopes, own_keys, source_name, origin.depth)
        # The base of a slice needs no ω, because it is not added.
        if (
            methods.WEIGHT in own_keys
            and methods.WEIGHT not in own[source.model]
            and source.model != base
        ):
            raise RecipeError(
                f"{source.model}: no rule for weight matches {source_name!r}. "
                "End the rules with one without a filter: {value: 0}."
            )
    try:
        shared = _values(slice_scopes, shared_keys, name, origin.depth)
        ordinary = recipe.of_slice(part, shared, own)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None
    # Excluding the tensor copies it from the base, the only source of such a slice.
    return replace(ordinary, exclude=(name,)) if recipe.only_base(part) else ordinary


def _values(
    scopes: Sequence[Mapping[str, Setting]], keys: Sequence[str], name: str, depth: float
) -> dict[str, settings.Scalar]:
    """Returns for each key the first value that a scope gives it at one tensor.

    Keys without a value are left out.
    """
    values = {}
    for key in keys:
        # As in mergekit, a scope whose rules match nothing leaves the value to the next scope.
        candidates = (settings.resolve(scope[key], name, depth) for scope in scopes if key in scope)
        value = next((value for value in candidates if value is not None), None)
        if value is not None:
            values[key] = value
    return values


def check_filters(recipe: Recipe, base: Iterable[str]) -> None:
    """Checks that each filter is part of some tensor's name, in the output or in a source.

    Raises:
        RecipeError: for the first filter that is not; it names the filter's position in the recipe.
    """
    spots = [(name, spot(recipe, name)) for name in base]
    outputs = {name for name, _ in spots}
    names = outputs | {
        origin.name_in(source, name) for name, origin in spots for source in origin.part.sources
    }
    rules: list[tuple[str, str]] = []
    for number, part in enumerate(recipe.slices):
        scopes: list[tuple[str, Mapping[str, Any]]] = [("parameters", part.parameters)]
        scopes += [(source.model, source.parameters) for source in part.sources]
        rules += [
            (f"slices[{number}]: {label}: {key}: the filter", text)
            for label, scope in scopes
            for key, setting in scope.items()
            for text in settings.filters(setting)
        ]
    rules += [
        (f"parameters: {key}: the filter", text)
        for key, setting in recipe.parameters.items()
        for text in settings.filters(setting)
    ]
    parts = [("dem.include:", text) for text in recipe.include] + [
        ("dem.exclude:", text) for text in recipe.exclude
    ]
    # Settings may be looked up under a source's names; include and exclude see the output's only.
    for pool, filters in ((names, rules), (outputs, parts)):
        for label, text in filters:
            if not any(text in name for name in pool):
                raise RecipeError(f"{label} {text!r} matches no tensor of the restacked model.")
