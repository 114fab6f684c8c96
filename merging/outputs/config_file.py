"""Writes config.json of an export: what the recipe changes, and the dtype of mixed files."""

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from merging.errors import CheckpointError, LoadError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.strict_json import parse_json
from merging.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_KEYS = ("dtype", "torch_dtype")
"""transformers has renamed torch_dtype to dtype; most configurations have the old key."""


def config_json(
    base: Checkpoint, recipe: Recipe, content: bytes, written: Collection[torch.dtype] = ()
) -> bytes:
    """Returns config.json: unchanged unless the recipe sets a dtype or restacks the layers.

    A dtype is also written if none is named and the weights have several, or the base's index names
    one. transformers would take that of the first tensor in the file, and an export has its tensors
    in another order than its base, and an index of its own.

    Args:
        base: Θ, with the configuration that fits its layers.
        recipe: the merge.
        content: the base's file.
        written: the floating-point dtypes of the export's weights.
    """
    config = dict(base.config)
    if named := _named(base, recipe):
        config = _completed(_with_dtype(config, named), named)
    elif not any(config.get(key) for key in _KEYS):
        chosen = _loading_dtype(base, mixed=len(set(written)) > 1)
        config = _completed(config, chosen) if chosen else config
    if config == base.config and not recipe.slices:
        return content
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def is_configuration(name: str, base: Checkpoint) -> bool:
    """Returns whether a file of the base's folder may name the dtype of weights that are merged."""
    at, _, file = name.rpartition("/")
    return file in ("config.json", "generation_config.json") and at in ("", *base.folders)


def with_recipe_dtype(base: Checkpoint, recipe: Recipe, content: bytes) -> bytes:
    """Returns another configuration of the base's folder with the recipe's dtype.

    Such as generation_config.json, or config.json of a module in a sub-folder. Unchanged if it
    names no dtype, or the recipe does not.
    """
    if not (named := _named(base, recipe)):
        return content
    try:
        config = parse_json(content, "a configuration", finite=False)
    except CheckpointError:
        return content  # no loader could read a dtype from it
    changed = _with_dtype(config, named)
    if changed == config:
        return content
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()


def _named(base: Checkpoint, recipe: Recipe) -> str:
    """Returns the dtype that a recipe gives its export; "" if it leaves the base's."""
    named = recipe.out_dtype or recipe.dtype
    floats = any(base.info(name).dtype.is_floating_point for name in base)
    return named if named is not None and floats else ""


def _with_dtype(node: Any, named: str) -> Any:
    """Returns a configuration in which every part that names a dtype names this one."""
    if isinstance(node, list):
        return [_with_dtype(value, named) for value in node]
    if not isinstance(node, dict):
        return node
    # A dtype may be a table of parts. A number is not one: Emu3's vocabulary has the word `dtype`.
    return {
        key: named
        if key in _KEYS and (value is None or isinstance(value, str | dict))
        else _with_dtype(value, named)
        for key, value in node.items()
    }


def _completed(config: dict[str, Any], named: str) -> dict[str, Any]:
    """Returns a configuration whose top level and composite parts name a dtype, this one if none.

    A class may be loaded with the part for text alone.
    """
    changed = {
        key: _completed(value, named)
        if isinstance(value, dict) and isinstance(value.get("model_type"), str)
        else value
        for key, value in config.items()
    }
    return changed if any(config.get(key) for key in _KEYS) else changed | {"dtype": named}


def _loading_dtype(base: Checkpoint, *, mixed: bool) -> str:
    """Returns the dtype in which transformers loads a base whose configuration names none.

    "" if the export is loaded in it anyway, or nothing loads the base.

    Args:
        base: Θ.
        mixed: whether the export's weights have several dtypes.
    """
    from merging.live.loading_dtype import index_metadata, loading_dtype
    from merging.live.model_config import read_config

    if not mixed and "dtype" not in (index_metadata(base) or {}):
        return ""
    try:
        dtype = loading_dtype(_loaded_part(base, read_config(base.path)), base)
    # Nothing loads this folder, so nothing can disagree about its dtype.
    except LoadError:
        return ""
    return str(dtype).removeprefix("torch.")


def _loaded_part(base: Checkpoint, config: "PreTrainedConfig") -> "PreTrainedConfig":
    """Returns the configuration of the class that is loaded: perhaps the part for text."""
    from merging.live.assemble import empty_module

    try:
        part: PreTrainedConfig = empty_module(base.path, config).config
    # A model of another kind than those that run here is loaded with all of it.
    except LoadError:
        return config
    return part
