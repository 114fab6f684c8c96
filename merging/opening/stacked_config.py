"""Adapts config.json to restacked layers: the number of layers, and lists with one entry per layer.

There is no table of architectures. The key for the number of layers is the one whose value is the
number of layers in the files. A list has one entry per layer if it has that length and its key
contains a word such as `layer`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from merging.errors import MismatchError

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Keys that mean the number of layers."""
_PER_LAYER = ("layer", "block", "types", "size", "heads")
"""Parts of keys whose lists have one entry per layer: layer_types, or an intermediate_size list."""
_NESTED = "text_config"
"""The key of the text model's configuration, in models of several modalities."""


class LayerOrigin(NamedTuple):
    """The model and the layer from which a layer of the output comes."""

    config: Mapping[str, Any]
    """The configuration of the model."""
    layer: int
    """The number of the layer in that model, from 0."""


def restack_config(
    config: Mapping[str, Any], layers: int, origins: Sequence[LayerOrigin], where: str
) -> dict[str, Any]:
    """Returns a model's configuration, adapted to restacked layers.

    Args:
        config: the model's configuration; if it is empty, so is the result.
        layers: how many layers the model's files have.
        origins: the origin of each layer of the output.
        where: the model's folder, for messages.

    Raises:
        MismatchError: if the configuration does not give the number of layers, or has a list per
            layer that the configuration of another model lacks.

    >>> config = {"num_hidden_layers": 2, "layer_types": ["full", "sliding"]}
    >>> restack_config(config, 2, [LayerOrigin(config, 1)] * 3, "")
    {'num_hidden_layers': 3, 'layer_types': ['sliding', 'sliding', 'sliding']}
    """
    if not config:
        return {}
    level = _level(config)
    counts = [key for key in COUNTS if type(level.get(key)) is int]
    if not counts or any(level[key] != layers for key in counts):
        values = ", ".join(f"{key} = {level[key]}" for key in counts) or "no number of layers"
        raise MismatchError(
            f"{where}: config.json has {values}, the files hold {layers} layers. "
            f"Slices need a key with the number of layers, for example {COUNTS[0]}; correct the "
            "file."
        )
    # A list of another model may have other entries for its layers, so each entry is taken from the
    # configuration of its own model.
    changed: dict[str, Any] = dict.fromkeys(counts, len(origins))
    for key, value in level.items():
        # The length alone proves nothing: a list of 32 token ids does not describe 32 layers.
        if (
            isinstance(value, list)
            and len(value) == layers
            and any(part in key for part in _PER_LAYER)
        ):
            changed[key] = [_entry(origin, key, where) for origin in origins]
        elif _is_list_of_layers(key, value, layers):
            changed[key] = [
                number
                for number, origin in enumerate(origins)
                if origin.layer in _list_of(origin, key, where)
            ]
    return {**config, **changed} if level is config else {**config, _NESTED: {**level, **changed}}


def _level(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of a configuration with the layer keys: itself, or its text_config."""
    nested = config.get(_NESTED)
    return (
        config if any(key in config for key in COUNTS) or not isinstance(nested, dict) else nested
    )


def _is_list_of_layers(key: str, value: Any, layers: int) -> bool:
    """Returns whether a list names some layers by number, such as mlp_only_layers: [0, 3]."""
    return (
        "layer" in key
        and isinstance(value, list)
        and bool(value)
        and all(type(entry) is int and 0 <= entry < layers for entry in value)
        # Rising and without repeats: one size for each layer could pass as layer numbers otherwise.
        and sorted(set(value)) == value
    )


def _list_of(origin: LayerOrigin, key: str, where: str) -> list[Any]:
    """Returns the list under `key` in the configuration of a layer's model."""
    entries = _level(origin.config).get(key)
    if not isinstance(entries, list):
        raise MismatchError(
            f"{where}: {key} is a list in config.json, and {entries!r} in a model of the slices. "
            "Restack models whose configurations describe their layers in the same way."
        )
    return entries


def _entry(origin: LayerOrigin, key: str, where: str) -> Any:
    """Returns the entry of a layer in its model's list under `key`."""
    entries = _list_of(origin, key, where)
    if origin.layer >= len(entries):
        raise MismatchError(
            f"{where}: {key} in config.json has one entry per layer; a model of the slices has "
            f"{len(entries)} entries there, and none for its layer {origin.layer}. Correct its "
            "config.json."
        )
    return entries[origin.layer]
