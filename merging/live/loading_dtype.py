"""The dtype in which transformers loads a model folder: its own rule, asked of transformers."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from merging.errors import LoadError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.header import MAX_INDEX
from merging.inputs.strict_json import read_json
from merging.live.assemble import quiet_loading
from merging.paths import INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def loading_dtype(config: "PreTrainedConfig", checkpoint: Checkpoint) -> torch.dtype:
    """Returns the dtype of `from_pretrained(folder)` in transformers 5, which is "auto" there.

    It is the dtype that the configuration names. If it names none, it is that of the index of
    several weight files; if that names none, of the first floating-point tensor of the first file.

    Args:
        config: the configuration of the loaded class: of a composite one, perhaps the part for
            text.
        checkpoint: the weights of the folder.

    Raises:
        LoadError: if the folder names something that is no dtype.
    """
    with quiet_loading():
        # The one function that decides it in from_pretrained. It writes to the configuration.
        from transformers.modeling_utils import _get_dtype

        metadata = index_metadata(checkpoint)
        try:
            _, dtype = _get_dtype(
                dtype="auto",
                checkpoint_files=None,
                config=deepcopy(config),
                sharded_metadata=metadata,
                state_dict=_first_file(checkpoint),
                weights_only=True,
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise LoadError(
                f"{checkpoint.path}: the dtype that config.json or {INDEX} names is unknown: "
                f"{error}. Correct it there, such as to 'bfloat16'."
            ) from None
    chosen: torch.dtype = dtype
    return chosen


def index_metadata(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Returns the metadata in the index of a folder's weight files; None if it has no index."""
    if not (checkpoint.path / INDEX).is_file():
        return None
    document = read_json(checkpoint.path / INDEX, MAX_INDEX)
    metadata = document.get("metadata")
    return dict(metadata) if isinstance(metadata, dict) else {}


def _first_file(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Returns the tensors of the file that transformers opens first, without their values."""
    top = [shard for shard in checkpoint.shards if shard.parent == checkpoint.path]
    # In the order of text, not of numbers: shard-10 comes before shard-2.
    first = min(top or checkpoint.shards, key=lambda shard: shard.name)
    # The library's own order of the tensors, which is that of transformers' state dict.
    with safe_open(first, "pt") as file:
        names = list(file.keys())
    return {
        name: torch.empty(0, dtype=checkpoint.info(name).dtype, device="meta")
        for name in names
        if name in checkpoint
    }
