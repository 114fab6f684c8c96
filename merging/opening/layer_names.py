"""Checks by name and shape alone that restacked layers fit a configuration.

There is no table of architectures: a layer must have the tensors which its number had, or which a
layer of its kind has.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from merging.engine import restack
from merging.errors import MismatchError
from merging.inputs.checkpoint import Checkpoint
from merging.opening.stacked_config import is_layer_numbers, is_per_layer, level_of
from merging.tensor_names import is_buffer, place

TensorNames = frozenset[tuple[str, tuple[int, ...]]]
"""The names of a layer's tensors, without its number, and their shapes."""


class StackedModel(NamedTuple):
    """A model whose layers are restacked."""

    name: str
    config: Mapping[str, Any]
    """The content of its config.json."""
    stack: str
    """The name of its stack of layers in its files, such as `model.layers`."""
    tensors: Sequence[TensorNames]
    """The tensors of each of its layers."""


class Move(NamedTuple):
    """A layer of a model, and its number in the output."""

    model: StackedModel
    layer: int
    to: int
    gives: bool
    """Whether the output's layer is made from it; else it is only merged into that layer."""


def stacked_model(
    name: str, weights: Checkpoint, config: Mapping[str, Any], layers: int
) -> StackedModel:
    """Returns what must be known of a model to restack its layers.

    Args:
        name: its name in messages.
        weights: its tensors, in one stack of layers.
        config: its config.json.
        layers: how many layers it has.
    """
    tensors: list[set[tuple[str, tuple[int, ...]]]] = [set() for _ in range(layers)]
    stack = ""
    for tensor in weights:
        spot, shape = place(tensor), tuple(weights.info(tensor).shape)
        if spot.layer is not None and not is_buffer(tensor, len(shape)):
            stack = spot.stack
            own_name = restack.renumber(tensor, 0).removeprefix(f"{stack}.").removeprefix("0.")
            tensors[spot.layer].add((own_name, shape))
    return StackedModel(name, config, stack, [frozenset(names) for names in tensors])


def kinds_by_lists(donor: StackedModel, moves: Iterable[Move]) -> dict[tuple[str, int], str]:
    """Returns (model, layer) -> what the lists of its config.json say of it, where they tell all.

    The result is empty if two layers, of which the lists say the same, have other tensors.
    """
    models = {move.model.name: move.model for move in moves} | {donor.name: donor}
    kinds: dict[tuple[str, int], str] = {}
    tensors: dict[str, TensorNames] = {}
    for name, model in models.items():
        level, count = level_of(model.config), len(model.tensors)
        for number in range(count):
            said = repr(
                sorted(
                    (key, value[number] if is_per_layer(key, value, count) else number in value)
                    for key, value in level.items()
                    if is_per_layer(key, value, count) or is_layer_numbers(key, value, count)
                )
            )
            kinds[name, number] = said
            if tensors.setdefault(said, model.tensors[number]) != model.tensors[number]:
                return {}
    return kinds


def check_names(
    donor: StackedModel, moves: Sequence[Move], kinds: Mapping[tuple[str, int], str]
) -> None:
    """Raises an error for a layer whose tensors are not those that its number has in the donor.

    Args:
        donor: the model whose config.json is used.
        moves: where each layer goes.
        kinds: (model, layer) -> its kind, if the output's configuration says it of each layer: a
            layer must then have the tensors of a layer of its kind. Empty if it does not.
    """
    every = set(donor.tensors)
    of_kind: dict[str, set[TensorNames]] = {}
    for number, names in enumerate(donor.tensors):
        of_kind.setdefault(kinds.get((donor.name, number), ""), set()).add(names)
    for move in moves:
        names = move.model.tensors[move.layer]
        if kinds:
            kind = kinds[move.model.name, move.layer]
            expected = of_kind.setdefault(kind, {names})
        else:
            # Beyond the donor's layers nothing is known of a number, unless all layers are alike.
            at = donor.tensors[move.to : move.to + 1]
            expected = every if len(every) == 1 else set(at)
        if names not in expected:
            raise MismatchError(refusal(move, _other_tensors(names, expected)))


def _other_tensors(names: TensorNames, expected: set[TensorNames]) -> str:
    """Returns in which tensor a layer is not as expected, as the middle of a sentence."""
    if not expected:
        return (
            "is beyond the layers that config.json describes, and the model's layers are of "
            "several kinds"
        )
    nearest = min(expected, key=lambda other: (len(names ^ other), sorted(other)))
    name = min(name for name, _ in names ^ nearest)
    ours, theirs = dict(names).get(name), dict(nearest).get(name)
    return (
        f"has {tensor_text(name, ours)}, where config.json describes a layer with "
        f"{tensor_text(name, theirs)}"
    )


def tensor_text(name: str, shape: tuple[int, ...] | None) -> str:
    """Returns what a layer has under a name, for messages."""
    return f"no {name}" if shape is None else f"{name} of shape {list(shape)}"


def refusal(move: Move, why: str) -> str:
    """Returns the message for a layer that cannot come where it would; `why` is its middle."""
    return (
        f"slices: layer {move.layer} of {move.model.name} would become layer {move.to} of the "
        f"output, and it {why}. Choose ranges in which each layer comes to the number of a layer "
        "of its own kind: moved by a multiple of the pattern's length, or not at all."
    )
