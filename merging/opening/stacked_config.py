"""config.json of a model whose layers were restacked: the number of layers, and what it says of each layer.

There is no table of architectures here either: the number of layers is the key that says what the files hold, and a
list is taken as one entry for each layer where it has as many entries and its key speaks of layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from merging.errors import MismatchError

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""The words for the number of layers."""
_PER_LAYER = ("layer", "block", "types", "size", "heads")
"""Parts of the keys of lists that have one entry for each layer: layer_types, or a list under intermediate_size."""
_NESTED = "text_config"


class LayerOrigin(NamedTuple):
    """Where a layer of the output was."""

    config: Mapping[str, Any]
    """The configuration of its model."""
    layer: int


def restacked(
    config: Mapping[str, Any], layers: int, origins: Sequence[LayerOrigin], where: str
) -> dict[str, Any]:
    """The configuration of a model with other layers.

    Args:
        config: of the model whose configuration is used; empty where it has none, and so is the result.
        layers: how many layers its files hold.
        origins: where each layer of the output was.
        where: its folder, for messages.

    Raises:
        MismatchError: when it does not say how many layers there are, or lists what another model does not.

    >>> restacked({"num_hidden_layers": 2, "layer_types": ["full", "sliding"]}, 2, [Origin(…, 1)] * 3, "")
    {'num_hidden_layers': 3, 'layer_types': ['sliding', 'sliding', 'sliding']}
    """
    if not config:
        return {}
    level = _level(config)
    counts = [key for key in COUNTS if type(level.get(key)) is int]
    if not counts or any(level[key] != layers for key in counts):
        given = ", ".join(f"{key} = {level[key]}" for key in counts) or "no number of layers"
        raise MismatchError(
            f"{where}: config.json has {given}, the files hold {layers} layers. "
            f"Slices need to know the key that counts them, for example {COUNTS[0]}; correct the file."
        )
    changed: dict[str, Any] = dict.fromkeys(counts, len(origins))
    for key, value in level.items():
        if (
            isinstance(value, list)
            and len(value) == layers
            and any(part in key for part in _PER_LAYER)
        ):
            changed[key] = [_entry(origin, key, where) for origin in origins]
        elif _numbers(key, value, layers):
            changed[key] = [
                number
                for number, one in enumerate(origins)
                if one.layer in _listed(one, key, where)
            ]
    return {**config, **changed} if level is config else {**config, _NESTED: {**level, **changed}}


def _level(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that speaks of the layers: itself, or the text model's of several."""
    nested = config.get(_NESTED)
    return (
        config if any(key in config for key in COUNTS) or not isinstance(nested, dict) else nested
    )


def _numbers(key: str, value: Any, layers: int) -> bool:
    """Whether a list names some of the layers by number, such as mlp_only_layers: [0, 3]."""
    return (
        "layer" in key
        and isinstance(value, list)
        and bool(value)
        and all(type(entry) is int and 0 <= entry < layers for entry in value)
        and sorted(set(value)) == value
    )


def _listed(origin: LayerOrigin, key: str, where: str) -> list[Any]:
    found = _level(origin.config).get(key)
    if not isinstance(found, list):
        raise MismatchError(
            f"{where}: config.json lists {key}, and a model of the slices gives {found!r} there. Restack models whose "
            "configurations describe their layers alike."
        )
    return found


def _entry(origin: LayerOrigin, key: str, where: str) -> Any:
    found = _listed(origin, key, where)
    if origin.layer >= len(found):
        raise MismatchError(
            f"{where}: {key} of config.json has an entry for each layer, and a model of the slices has {len(found)}, none for "
            f"its layer {origin.layer}. Correct its config.json."
        )
    return found[origin.layer]
