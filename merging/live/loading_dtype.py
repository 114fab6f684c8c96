"""The dtype in which transformers loads a model folder: its own rule, asked of transformers."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from merging.inputs.checkpoint import Checkpoint
from merging.live.assemble import empty_module, quiet_loading

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def loading_dtype(folder: Path, config: "PreTrainedConfig", checkpoint: Checkpoint) -> torch.dtype:
    """Returns the dtype of `from_pretrained(folder)` in transformers 5, which is "auto" there.

    It is the dtype that the model's configuration names. If it names none, it is that of the first
    floating-point tensor of the first weight file, which transformers' `get_state_dict_dtype`
    chooses.

    Args:
        folder: the model folder.
        config: its configuration; see merging.live.model_config.read_config.
        checkpoint: its weights.
    """
    with quiet_loading():
        # Of a composite configuration, the class may take only the part for text.
        named = getattr(empty_module(folder, config).config, "dtype", None)
        if isinstance(named, torch.dtype):
            return named
        from transformers.modeling_utils import get_state_dict_dtype

        # The library's own order of the tensors, which is that of transformers' state dict.
        with safe_open(checkpoint.shards[0], "pt") as file:
            names = list(file.keys())
        stored = {
            name: torch.empty(0, dtype=checkpoint.info(name).dtype, device="meta")
            for name in names
            if name in checkpoint
        }
        chosen: torch.dtype = get_state_dict_dtype(stored)
    return chosen
