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
_PER_LAYER = ("layer", "block", "types", "size", "heads", "pattern", "multiplier", "windows")
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
    level = level_of(config)
    counts = [key for key in COUNTS if type(level.get(key)) is int]
    if not counts or any(level[key] != layers for key in counts):
        values = ", ".join(f"{key} = {level[key]}" for key in counts) or "no number of layers"
        raise MismatchError(
            f"{where}: config.json has {values}, the files hold {layers} layers. "
            f"Slices need a key with the number of layers, for example {COUNTS[0]}; correct the "
            "file. If the files hold more layers, which predict further tokens, save the model "
            "without them first (transformers leaves them out)."
        )
    counted = dict.fromkeys(counts, len(origins))
    return with_level(config, counted | restacked_lists(level, layers, origins, where))


def restacked_lists(
    level: Mapping[str, Any], layers: int, origins: Sequence[LayerOrigin], where: str
) -> dict[str, Any]:
    """Returns the lists of a configuration that are about single layers, for restacked layers.

    Args:
        level: the part of the configuration that describes the layers; see level_of.
        layers: how many layers it describes.
        origins: the origin of each layer of the output. A list of another model may have other
            entries for its layers, so each entry is taken from the configuration of its own model.
        where: the model's folder, for messages.

    Raises:
        MismatchError: if the configuration of another model lacks such a list.
    """
    changed: dict[str, Any] = {}
    for key, value in level.items():
        if is_per_layer(key, value, layers):
            entries = [_entry(origin, key, where) for origin in origins]
            changed[key] = "".join(entries) if isinstance(value, str) else entries
        elif is_layer_numbers(key, value, layers):
            changed[key] = [
                number
                for number, origin in enumerate(origins)
                if origin.layer in _numbers(origin, key, where, value)
            ]
        elif _is_layer_map(key, value, layers):
            width = len(str(len(origins) - 1))
            entries = [_entries_of(origin, key) for origin in origins]
            changed[key] = {
                f"{number:0{width}}": entry for number, entry in enumerate(entries) if entry
            }
        elif _unrolled(value, layers) is not None:
            entries = [_run_entry(origin, key, where) for origin in origins]
            if entries != _unrolled(value, layers):
                changed[key] = [[[entry], 1] for entry in entries]
    return changed


def level_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of a configuration with the layer keys: itself, or its text_config."""
    nested = config.get(_NESTED)
    return (
        config if any(key in config for key in COUNTS) or not isinstance(nested, dict) else nested
    )


def with_level(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration with other values in the part that has the layer keys."""
    level = level_of(config)
    if level is config:
        return {**config, **changes}
    return {**config, _NESTED: {**level, **changes}}


def like_output(config: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a model's configuration with what the output's says of single layers.

    So the two differ in nothing that restacking changes.
    """
    level = level_of(output)
    layers = next((level[key] for key in COUNTS if type(level.get(key)) is int), 0)
    changes = {
        key: value
        for key, value in level.items()
        if key in COUNTS
        or is_per_layer(key, value, layers)
        or is_layer_numbers(key, value, layers)
        or _is_layer_map(key, value, layers)
        or _unrolled(value, layers) is not None
    }
    return with_level(config, changes)


def is_per_layer(key: str, value: Any, layers: int) -> bool:
    """Returns whether a value has one entry per layer: a list, or a text of one letter for each."""
    # The length alone proves nothing: a list of 32 token ids does not describe 32 layers.
    return (
        (isinstance(value, list) or (isinstance(value, str) and "pattern" in key))
        and len(value) == layers
        and any(part in key for part in _PER_LAYER)
        and not (is_layer_numbers(key, value, layers) and layers > 2)
        and _unrolled(value, layers) is None
    )


def is_layer_numbers(key: str, value: Any, layers: int) -> bool:
    """Returns whether a list names some layers by number, such as mlp_only_layers: [0, 3].

    An empty list names none of them; it may name some in another model.
    """
    return (
        "layer" in key
        and isinstance(value, list)
        and all(type(entry) is int and 0 <= entry < layers for entry in value)
        # Rising and without repeats: one size for each layer could pass as layer numbers otherwise.
        and sorted(set(value)) == value
    )


def _is_layer_map(key: str, value: Any, layers: int) -> bool:
    """Returns whether a value has settings for some layers by number: {"05": {"head_dim": 512}}."""
    return (
        "layer" in key
        and isinstance(value, Mapping)
        and bool(value)
        and all(str(number).isdecimal() and int(number) < layers for number in value)
    )


def _entries_of(origin: LayerOrigin, key: str) -> Any:
    """Returns the settings of a layer in its model's map of layers; None if it has none."""
    entries = level_of(origin.config).get(key) or {}
    return next((entries[number] for number in entries if int(number) == origin.layer), None)


def _unrolled(value: Any, layers: int) -> list[Any] | None:
    """Returns the entries of a list of runs; None if the value is no such list.

    A run is a list of entries and how often it is repeated: [[["global", "local"], 12]].
    """
    if not isinstance(value, list) or not value:
        return None
    entries: list[Any] = []
    for run in value:
        if not (isinstance(run, list) and len(run) == 2 and isinstance(run[0], list)):
            return None
        if type(run[1]) is not int or not 0 <= run[1] <= layers:
            return None
        entries += run[0] * run[1]
    return entries if len(entries) == layers else None


def _run_entry(origin: LayerOrigin, key: str, where: str) -> Any:
    """Returns the entry of a layer in its model's list of runs under `key`."""
    level = level_of(origin.config)
    counts = [level[name] for name in COUNTS if type(level.get(name)) is int]
    entries = _unrolled(level.get(key), counts[0]) if counts else None
    if entries is None:
        raise _described_otherwise(key, level.get(key), where)
    return entries[origin.layer]


def _list_of(origin: LayerOrigin, key: str, where: str) -> Any:
    """Returns the list under `key` in the configuration of a layer's model."""
    entries = level_of(origin.config).get(key)
    if not isinstance(entries, list | str):
        raise _described_otherwise(key, entries, where)
    return entries


def _numbers(origin: LayerOrigin, key: str, where: str, value: list[int]) -> Any:
    """Returns the layer numbers under `key` in the configuration of a layer's model."""
    # A list that names no layer may be left out.
    if not value and level_of(origin.config).get(key) is None:
        return value
    return _list_of(origin, key, where)


def _described_otherwise(key: str, entries: Any, where: str) -> MismatchError:
    return MismatchError(
        f"{where}: {key} is a list in config.json, and {entries!r} in a model of the slices. "
        "Restack models whose configurations describe their layers in the same way."
    )


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
