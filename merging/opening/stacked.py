"""Opens a recipe with slices: layers of several checkpoints, renamed as the layers of one model.

It is a view over the same files; no weights are read or copied on opening.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from merging.engine import restack
from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Checkpoint, Stored
from merging.inputs.digest import DigestTree, combined
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import DistributionVector, Vector
from merging.opening.layer_fit import described_as, fitted_config
from merging.opening.layer_names import Move, stacked_model
from merging.opening.stacked_config import LayerOrigin, like_output, restack_config
from merging.recipe import Recipe
from merging.recipe.parts import Slice, SliceSource
from merging.tensor_names import natural_key, place
from plumbing.suggest import listed


class _Input(NamedTuple):
    """One model that the slices name."""

    weights: Checkpoint
    adapter: LoraVector | None
    layers: int
    """How many layers it has."""


class Stacked(Checkpoint):
    """A checkpoint made of tensors of other checkpoints, under new names.

    Args:
        whose: the checkpoint that it replaces; it has the same folder (with the tokenizer) and the
            same digest.
        tensors: new name -> checkpoint, and the tensor's name in it.
        config: the configuration that fits the new layers.
        adapter: an adapter on `whose`; its delta is added to each tensor as it is read.

    Attributes:
        whose, adapter: as given.
    """

    def __init__(
        self,
        whose: Checkpoint,
        tensors: Mapping[str, tuple[Checkpoint, str]],
        config: Mapping[str, Any],
        adapter: LoraVector | None = None,
    ) -> None:
        self.path, self.folders, self.metadata = whose.path, whose.folders, {}
        self.whose, self.adapter, self.config = whose, adapter, dict(config)
        self._sources = dict(tensors)
        # By id(), because checkpoints are mappings: == would read and compare every tensor.
        self._parts = list({id(weights): weights for weights, _ in tensors.values()}.values())
        self.shards = tuple(shard for part in self._parts for shard in part.shards)
        self.files = tuple(file for part in self._parts for file in part.files)
        # Shards are numbered through over all parts, so each part needs its first number.
        first, count = {}, 0
        for part in self._parts:
            first[id(part)] = count
            count += len(part.shards)
        self._infos = {}
        for name in sorted(tensors, key=natural_key):
            weights, original = tensors[name]
            number, info = weights._infos[original]
            self._infos[name] = (first[id(weights)] + number, info)

    def block(self, name: str, start: int, stop: int, scratch: Tensor | None = None) -> Tensor:
        """Returns elements of a flattened tensor; see Checkpoint.block.

        A tensor that the adapter changes is in the working dtype.
        """
        if self._adapted(name):
            assert self.adapter is not None
            return self.adapter.weights_block(self._sources[name][1], start, stop)
        return super().block(name, start, stop, scratch)

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """Returns the span in an open file; None if the adapter changes the tensor."""
        return None if self._adapted(name) else super().in_file(name, start, stop, files)

    def _adapted(self, name: str) -> bool:
        return self.adapter is not None and self._sources[name][1] in self.adapter

    @cached_property
    def digest(self) -> str:
        """The replaced checkpoint's digest, hashed with the adapter's digest if it has one."""
        if self.adapter is None:
            return self.whose.digest
        return combined(self.whose.digest, self.adapter.digest)

    @cached_property
    def sampled_digest(self) -> str:
        """As earlier versions gave it; see Checkpoint.sampled_digest."""
        if self.adapter is None:
            return self.whose.sampled_digest
        both = f"{self.whose.sampled_digest} {self.adapter.sampled_digest}"
        return hashlib.sha256(both.encode()).hexdigest()

    def gather_digest(self) -> None:
        """Hashes what is read of the replaced checkpoint and the adapter from now on."""
        self.whose.gather_digest()
        if self.adapter is not None:
            self.adapter.gather_digest()

    def _tree_of(self, name: str) -> tuple[DigestTree, str]:
        weights, own_name = self._sources[name]
        return weights._tree_of(own_name)

    @cached_property
    def identity(self) -> str:
        """The key of caches: SHA-256 over the identities of all parts and the renaming."""
        parts = [part.identity for part in self._parts] + (
            [self.adapter.identity] if self.adapter else []
        )
        renaming = [
            (name, original, self._infos[name][0]) for name, (_, original) in self._sources.items()
        ]
        return hashlib.sha256(repr((parts, renaming)).encode()).hexdigest()


def open_slices(
    recipe: Recipe, locate: Callable[[str], Path] = Path
) -> tuple[Stacked, dict[str, Vector]]:
    """Opens the restacked base of a recipe with slices, and a vector for each model.

    A vector contains only the tensors of slices that name its model, under the output's names.

    Args:
        recipe: the recipe to open.
        locate: returns the folder of a reference as written in the recipe.

    Raises:
        CheckpointError: if a folder cannot be read.
        MismatchError: if a slice names a layer that its model lacks, or models do not fit.
        RecipeError: if a model does not have exactly one stack of layers.
    """
    opened: dict[str, Checkpoint] = {}
    inputs: dict[str, _Input] = {}
    for source in recipe.models:
        weights = opened.setdefault(source.path, Checkpoint(locate(source.path)))
        adapter = LoraVector(locate(source.lora), weights, source.name) if source.lora else None
        inputs[source.name] = _Input(weights, adapter, _layers(weights, source.name))
    _check_ranges(recipe, inputs)
    # The donor gives what is not per layer: the folder, the configuration and the tokenizer.
    donor = opened[recipe.models[0].path]
    if recipe.base is not None:
        donor = opened.get(recipe.base) or Checkpoint(locate(recipe.base))

    def beneath(part: Slice) -> SliceSource:
        # A method without a base still needs names, shapes and dtypes; the first source gives them.
        return part.source(recipe.base_of(part) or "") or part.sources[0]

    tensors = _tensors(recipe, inputs, beneath)
    _check_outside_layers(donor, tensors)
    base = Stacked(donor, tensors, _config(recipe, inputs, donor, beneath))
    vectors: dict[str, Vector] = {}
    for name, (weights, adapter, _) in inputs.items():
        own = _tensors(recipe, inputs, lambda part, name=name: part.source(name))  # type: ignore[misc]
        beside = {
            key: tensors[key] for key in tensors if restack.spot(recipe, key).part.source(name)
        }
        # Described as the output is, layer by layer: preflight would otherwise report another
        # architecture.
        config = like_output(weights.config, base.config)
        # A base for this vector alone, with the tensors of the slices that name its model: a vector
        # refuses a base whose names it lacks.
        under = Stacked(donor, beside, base.config)
        vectors[name] = DistributionVector(name, under, Stacked(weights, own, config, adapter))
    return base, vectors


def _tensors(
    recipe: Recipe, inputs: Mapping[str, _Input], column: Callable[[Slice], SliceSource | None]
) -> dict[str, tuple[Checkpoint, str]]:
    """Returns output name -> checkpoint and name in it, for one source of each slice.

    Args:
        recipe: the recipe.
        inputs: its models.
        column: returns the source to take of a slice; None leaves the slice's tensors out.
    """
    tensors: dict[str, tuple[Checkpoint, str]] = {}
    done = 0  # output layers before this slice
    for part in recipe.slices:
        source = column(part)
        if source is not None:
            weights = inputs[source.model].weights
            for name in weights:
                layer = place(name).layer
                if layer is not None and source.start <= layer < source.stop:
                    new_name = restack.renumber(name, done + layer - source.start)
                    tensors[new_name] = (weights, name)
        done += part.length
    # As in mergekit, embeddings come from the first slice; the final norm and head from the last.
    for part, embeddings in ((recipe.slices[0], True), (recipe.last_slice, False)):
        source = column(part)
        if source is not None:
            weights = inputs[source.model].weights
            outside = [name for name in weights if place(name).layer is None]
            tensors |= {
                name: (weights, name) for name in outside if restack.comes_first(name) == embeddings
            }
    return tensors


def _config(
    recipe: Recipe,
    inputs: Mapping[str, _Input],
    donor: Checkpoint,
    beneath: Callable[[Slice], SliceSource],
) -> dict[str, Any]:
    """Returns the donor's configuration, in which each layer of the output is what it was."""
    models = {}
    for name, (weights, _, layers) in inputs.items():
        described = described_as(weights.config, donor.config, layers)
        models[name] = stacked_model(name, weights, described, layers)
    own = stacked_model(str(donor.path), donor, donor.config, _layers(donor, "base"))
    moves: list[Move] = []
    done = 0  # output layers before this slice
    for part in recipe.slices:
        moves += [
            Move(models[source.model], source.start + i, done + i, source == beneath(part))
            for i in range(part.length)
            for source in part.sources
        ]
        done += part.length
    origins = [LayerOrigin(move.model.config, move.layer) for move in moves if move.gives]
    config = restack_config(donor.config, len(own.tensors), origins, own.name)
    return fitted_config(config, own, moves)


def _layers(weights: Checkpoint, name: str) -> int:
    """Returns how many layers a model has.

    Raises:
        RecipeError: if it has several stacks of layers, or none.
    """
    places = [position for tensor in weights if (position := place(tensor)).layer is not None]
    stacks = sorted({position.stack for position in places})
    if len(stacks) != 1:
        has = f"{len(stacks)} stacks of layers ({listed(stacks)})" if stacks else "no layers"
        raise RecipeError(
            f"{name} ({weights.path}) has {has}; slices need a model with one stack of layers. "
            "Use models: instead of slices:."
        )
    return max(position.layer or 0 for position in places) + 1


def _check_ranges(recipe: Recipe, inputs: Mapping[str, _Input]) -> None:
    """Raises an error for the first slice with a layer that its model lacks."""
    for number, part in enumerate(recipe.slices):
        for source in part.sources:
            layers = inputs[source.model].layers
            if source.stop > layers:
                raise MismatchError(
                    f"slices[{number}]: {source.model} has {layers} layers, and layer_range is "
                    f"[{source.start}, {source.stop}]. Give a range within [0, {layers}]."
                )


def _check_outside_layers(donor: Checkpoint, tensors: Mapping[str, tuple[Checkpoint, str]]) -> None:
    """Raises an error if the tensors outside the layers do not fit the donor's configuration."""
    # These tensors are described by config.json, which is the donor's: with a head that it does not
    # know, the export would load wrongly.
    expected = {name: donor.info(name).shape for name in donor if place(name).layer is None}
    actual = {
        name: weights.info(name).shape
        for name, (weights, _) in tensors.items()
        if place(name).layer is None
    }
    if expected.keys() != actual.keys():
        missing = listed(sorted(expected.keys() - actual.keys()))
        extra = listed(sorted(actual.keys() - expected.keys()))
        parts = [f"the slices lack {missing}"] if missing else []
        parts += [f"the slices also have {extra}"] if extra else []
        raise MismatchError(
            f"The slices do not have the tensors outside the layers that {donor.path} has, whose "
            f"configuration is used: {'; '.join(parts)}. If it is the head, one model ties it to "
            "its embeddings and the other does not: save both the same way (tie_word_embeddings)."
        )
    for name, shape in actual.items():
        if shape != expected[name]:
            raise MismatchError(
                f"{name} has shape {list(shape)} in the slices and {list(expected[name])} in "
                f"{donor.path}, whose configuration is used. Restack models of one width and one "
                "vocabulary."
            )
