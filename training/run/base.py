"""Opens the base of a stage through the same door as everything else that loads a model.

Weights are read from safetensors files alone, the module is transformers' own class, and nothing in
the folder is run, followed out of it, or added to the model; see merging.live.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from merging.errors import MergingError
from merging.inputs.checkpoint import Checkpoint
from merging.live.assemble import assemble
from merging.live.model_config import read_config
from merging.live.tokenizer import read_tokenizer
from training.errors import TrainingError


class Base(NamedTuple):
    """A checkpoint to train on, of which only headers and the tokenizer are read yet."""

    folder: Path
    config: Any
    """The configuration of transformers."""
    tokenizer: Any
    weights: Checkpoint

    @property
    def dtype(self) -> str:
        """The dtype of most of its weights, such as "bfloat16"."""
        sizes: dict[str, int] = {}
        for name in self.weights:
            info = self.weights.info(name)
            dtype = str(info.dtype).removeprefix("torch.")
            sizes[dtype] = sizes.get(dtype, 0) + info.numel
        return max(sizes, key=sizes.__getitem__)

    def load(self, dtype: str = "float32") -> Any:
        """Returns the model, with every parameter trainable that can be.

        Args:
            dtype: of the parameters, "float32" or "bfloat16".

        Raises:
            TrainingError: the weights do not fit the configuration, or cannot be read.
        """
        import torch

        try:
            return assemble(self.folder, self.weights, dtype=getattr(torch, dtype), trainable=True)
        except MergingError as error:
            raise TrainingError(str(error)) from None


def open_base(folder: Path) -> Base:
    """Opens and checks the configuration, the tokenizer and the weights in a folder.

    Raises:
        TrainingError: the folder holds no full checkpoint with a tokenizer, has its weights as
            pickles or quantised, or asks a loader to run code or to fetch anything.
    """
    _check_kind(folder)
    try:
        config = read_config(folder)
        weights = Checkpoint(folder)
        tokenizer = read_tokenizer(folder, config)
    except MergingError as error:
        raise TrainingError(str(error)) from None
    if tokenizer is None:
        raise TrainingError(
            f"{folder}: holds no tokenizer. Copy the tokenizer files (tokenizer.json, "
            "tokenizer_config.json) of the model that it comes from into it."
        )
    return Base(folder, config, tokenizer, weights)


def _check_kind(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        what = (
            "is a LoRA adapter"
            if (folder / "adapter_config.json").is_file()
            else "has no config.json"
        )
        raise TrainingError(
            f"{folder}: {what}; expected a full checkpoint with its tokenizer. "
            "To continue an adapter, give its base, and the adapter as adapter. "
            "Or merge it into its base first, with `dem merge`."
        )
