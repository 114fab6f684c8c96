"""Layers of several checkpoints under the names of one model, over the same files: nothing is read, nothing is copied."""

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
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import DistributionVector, Vector
from merging.opening.stacked_config import COUNTS, LayerOrigin, restacked
from merging.recipe import Recipe
from merging.recipe.parts import Slice, SliceSource
from merging.tensor_names import natural_key, place
from plumbing.suggest import listed


class _Input(NamedTuple):
    """One model that the slices name."""

    weights: Checkpoint
    adapter: LoraVector | None
    layers: int


class Stacked(Checkpoint):
    """Tensors of checkpoints under new names, as a checkpoint of its own.

    Args:
        whose: the checkpoint that it stands for: its folder's configuration and tokenizer come along, its digest is told.
        tensors: new name -> checkpoint, and the tensor's name there.
        config: the configuration that fits the new layers.
        adapter: an adapter on `whose`, merged into each tensor as it is read.
    """

    def __init__(
        self,
        whose: Checkpoint,
        tensors: Mapping[str, tuple[Checkpoint, str]],
        config: Mapping[str, Any],
        adapter: LoraVector | None = None,
    ) -> None:
        self.path, self.metadata, self.config = whose.path, {}, dict(config)
        self._whose, self._adapter = whose, adapter
        self._names = {name: original for name, (_, original) in tensors.items()}
        self._parts = list({id(one): one for one, _ in tensors.values()}.values())
        self.shards = tuple(shard for part in self._parts for shard in part.shards)
        self._identities = [identity for part in self._parts for identity in part._identities]
        first, count = {}, 0
        for part in self._parts:
            first[id(part)] = count
            count += len(part.shards)
        self._infos = {}
        for name in sorted(tensors, key=natural_key):
            one, original = tensors[name]
            number, info = one._infos[original]
            self._infos[name] = (first[id(one)] + number, info)

    def block(self, name: str, start: int, stop: int, scratch: Tensor | None = None) -> Tensor:
        """Elements of the flattened tensor; with an adapter in float32, or float64 where the weights are."""
        if self._adapted(name):
            assert self._adapter is not None
            return self._adapter.weights_block(self._names[name], start, stop)
        return super().block(name, start, stop, scratch)

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """See Checkpoint; what an adapter changes is in no file."""
        return None if self._adapted(name) else super().in_file(name, start, stop, files)

    def _adapted(self, name: str) -> bool:
        return self._adapter is not None and self._names.get(name) in self._adapter

    @cached_property
    def digest(self) -> str:
        """That of the checkpoint that it stands for, and of the adapter on it."""
        parts = [self._whose.digest, *([self._adapter.digest] if self._adapter else [])]
        return parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @cached_property
    def identity(self) -> str:
        """SHA-256 over the files of all parts and which tensor stands where."""
        parts = [part.identity for part in self._parts] + (
            [self._adapter.identity] if self._adapter else []
        )
        where = [(name, original, self._infos[name][0]) for name, original in self._names.items()]
        return hashlib.sha256(repr((parts, where)).encode()).hexdigest()


def open_slices(
    recipe: Recipe, locate: Callable[[str], Path] = Path
) -> tuple[Stacked, dict[str, Vector]]:
    """The restacked base of a recipe with slices, and each model's layers under the output's names.

    Args:
        recipe: what to open.
        locate: a reference as written -> a folder.

    Raises:
        CheckpointError: when a folder cannot be read.
        MismatchError: when a slice names a layer that its model lacks, or models do not fit each other.
    """
    opened: dict[str, Checkpoint] = {}
    inputs: dict[str, _Input] = {}
    for source in recipe.models:
        weights = opened.setdefault(source.path, Checkpoint(locate(source.path)))
        adapter = LoraVector(locate(source.lora), weights, source.name) if source.lora else None
        inputs[source.name] = _Input(weights, adapter, _layers(weights, source.name))
    _ranges(recipe, inputs)
    donor = opened[recipe.models[0].path]
    if recipe.base is not None:
        donor = opened.get(recipe.base) or Checkpoint(locate(recipe.base))

    def beneath(part: Slice) -> SliceSource:
        return part.source(recipe.base_of(part) or "") or part.sources[0]

    tensors = _tensors(recipe, inputs, beneath)
    _same_outside(donor, tensors)
    origins = [
        LayerOrigin(inputs[source.model].weights.config, layer)
        for source in map(beneath, recipe.slices)
        for layer in range(source.start, source.stop)
    ]
    base = Stacked(
        donor, tensors, restacked(donor.config, _layers(donor, "base"), origins, str(donor.path))
    )
    vectors: dict[str, Vector] = {}
    for name, (weights, adapter, _) in inputs.items():
        own = _tensors(recipe, inputs, lambda part, name=name: part.source(name))  # type: ignore[misc]
        beside = {
            key: tensors[key] for key in tensors if restack.spot(recipe, key).part.source(name)
        }
        config = {
            **weights.config,
            **{key: base.config[key] for key in COUNTS if key in base.config},
        }
        under = Stacked(donor, beside, base.config)
        vectors[name] = DistributionVector(name, under, Stacked(weights, own, config, adapter))
    return base, vectors


def _tensors(
    recipe: Recipe, inputs: Mapping[str, _Input], column: Callable[[Slice], SliceSource | None]
) -> dict[str, tuple[Checkpoint, str]]:
    """Output name -> checkpoint and name there, of one source of each slice; nothing where a slice has none."""
    found: dict[str, tuple[Checkpoint, str]] = {}
    done = 0
    for part in recipe.slices:
        source = column(part)
        if source is not None:
            weights = inputs[source.model].weights
            for name in weights:
                layer = place(name).layer
                if layer is not None and source.start <= layer < source.stop:
                    found[restack.renumbered(name, done + layer - source.start)] = (weights, name)
        done += part.length
    for part, embeddings in ((recipe.slices[0], True), (recipe.last_slice, False)):
        source = column(part)
        if source is not None:
            weights = inputs[source.model].weights
            outside = [name for name in weights if place(name).layer is None]
            found |= {
                name: (weights, name) for name in outside if restack.comes_first(name) == embeddings
            }
    return found


def _layers(weights: Checkpoint, name: str) -> int:
    """How many layers a model has.

    Raises:
        RecipeError: when it has several stacks of layers, or none.
    """
    places = [where for tensor in weights if (where := place(tensor)).layer is not None]
    stacks = sorted({where.stack for where in places})
    if len(stacks) != 1:
        raise RecipeError(
            f"{name} ({weights.path}) has {f'{len(stacks)} stacks of layers ({listed(stacks)})' if stacks else 'no layers'}; "
            "slices restack the layers of one. Use models: instead."
        )
    return max(where.layer or 0 for where in places) + 1


def _ranges(recipe: Recipe, inputs: Mapping[str, _Input]) -> None:
    for number, part in enumerate(recipe.slices):
        for source in part.sources:
            have = inputs[source.model].layers
            if source.stop > have:
                raise MismatchError(
                    f"slices[{number}]: {source.model} has {have} layers, and layer_range is [{source.start}, {source.stop}]. "
                    f"Give a range within [0, {have}]."
                )


def _same_outside(donor: Checkpoint, tensors: Mapping[str, tuple[Checkpoint, str]]) -> None:
    """What stands outside the layers is what the donor's configuration speaks of."""
    wanted = {name for name in donor if place(name).layer is None}
    found = {
        name: one.info(name).shape
        for name, (one, _) in tensors.items()
        if place(name).layer is None
    }
    if wanted != found.keys():
        raise MismatchError(
            f"outside the layers {donor.path}, whose configuration is used, has {listed(sorted(wanted - found.keys())) or 'nothing'} "
            f"and the slices give {listed(sorted(found.keys() - wanted)) or 'nothing'} beside what they share. Where it is the head, "
            "one model ties it to its embeddings and the other does not: save both the same way (tie_word_embeddings)."
        )
    for name, shape in found.items():
        if shape != (expected := donor.info(name).shape):
            raise MismatchError(
                f"{name} has shape {list(shape)} in the slices and {list(expected)} in {donor.path}, whose configuration is "
                "used. Restack models of one width and one vocabulary."
            )
