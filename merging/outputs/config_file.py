"""Writes config.json of an export: what the recipe changes, and the dtype of mixed files."""

import json
from collections.abc import Collection
from typing import Any

import torch

from merging.errors import LoadError
from merging.inputs.checkpoint import Checkpoint
from merging.recipe import Recipe

_KEYS = ("dtype", "torch_dtype")
"""transformers has renamed torch_dtype to dtype; most configurations have the old key."""


def config_json(
    base: Checkpoint, recipe: Recipe, content: bytes, written: Collection[torch.dtype] = ()
) -> bytes:
    """Returns config.json: unchanged unless the recipe sets a dtype or restacks the layers.

    A dtype is also written if none is named and the weights have several. transformers would take
    that of the first tensor in the file, and an export has its tensors in another order than its
    base.

    Args:
        base: Θ, with the configuration that fits its layers.
        recipe: the merge.
        content: the base's file.
        written: the floating-point dtypes of the export's weights.
    """
    named = recipe.out_dtype or recipe.dtype
    config = dict(base.config)
    if named is not None and any(base.info(name).dtype.is_floating_point for name in base):
        config = _with_dtype(config, named)
        # The top level decides for parts that name none.
        if not any(key in config for key in _KEYS):
            config["dtype"] = named
    elif len(set(written)) > 1 and not any(config.get(key) for key in _KEYS):
        chosen = _loading_dtype(base)
        config |= {"dtype": chosen} if chosen else {}
    if config == base.config and not recipe.slices:
        return content
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _with_dtype(config: dict[str, Any], named: str) -> dict[str, Any]:
    """Returns a configuration in which every part that names a dtype names this one."""
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if key in _KEYS and (value is None or isinstance(value, str)):
            changed[key] = named
        else:
            changed[key] = _with_dtype(value, named) if isinstance(value, dict) else value
    return changed


def _loading_dtype(base: Checkpoint) -> str:
    """Returns the name of the dtype in which transformers loads the base; "" if it cannot."""
    from merging.live.loading_dtype import loading_dtype
    from merging.live.model_config import read_config

    try:
        dtype = loading_dtype(base.path, read_config(base.path), base)
    # Nothing loads this folder, so nothing can disagree about its dtype.
    except LoadError:
        return ""
    return str(dtype).removeprefix("torch.")
