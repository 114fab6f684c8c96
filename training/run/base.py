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
from merging.tensor_names import place
from training.errors import TrainingError


class Held(NamedTuple):
    """How the weights of a base are held in memory."""

    dtype: str = "float32"
    """Of every weight that is not quantised: "float32" or "bfloat16"."""
    four_bit: bool = False
    """Whether the matrices of linear layers, except the output layer, are held in NF4: 4 bits per
    weight, and a scale for each 64 of them (QLoRA, arXiv 2305.14314, section 3)."""
    device: str = "cpu"
    """Where the weights are read to."""

    @property
    def name(self) -> str:
        """The name of the dtype in a plan: "float32", "bfloat16" or "nf4"."""
        return "nf4" if self.four_bit else self.dtype


PLAIN = Held()
"""Every weight in float32, on the CPU."""


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

    def nbytes(self, held: Held) -> int:
        """Returns the bytes of the weights when they are held in this way."""
        wide, narrow = (2 if held.dtype == "bfloat16" else 4), 0.5 + 1 / 64
        total = 0.0
        for name in self.weights:
            info = self.weights.info(name)
            linear = len(info.shape) == 2 and place(name).part not in ("embeddings", "head")
            total += info.numel * (narrow if held.four_bit and linear else wide)
        return round(total)

    def load(self, held: Held = PLAIN) -> Any:
        """Returns the model, with every parameter trainable that can be.

        Raises:
            TrainingError: the weights do not fit the configuration, or cannot be read. Nothing in
                the model can be held in 4 bits.
        """
        import torch

        dtype = getattr(torch, held.dtype)
        try:
            model = assemble(
                self.folder,
                self.weights,
                dtype=dtype,
                device=held.device,
                trainable=True,
                quantization=_nf4(dtype) if held.four_bit else None,
            )
        except MergingError as error:
            raise TrainingError(str(error)) from None
        if held.four_bit and not _keep_unpacked(model):
            raise TrainingError(
                f'base_dtype is "nf4", and {self.folder} has no linear layer that can be held in 4 '
                'bits. Give base_dtype="bfloat16".'
            )
        return model


def _nf4(dtype: Any) -> Any:
    """Returns transformers' configuration of 4-bit weights that compute in a dtype."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        # The scales are quantised too, to 8 bits.
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_unpacked(model: Any) -> int:
    """Keeps 4-bit weights in the layout that can be trained on; returns how many layers have any.

    On CPUs with AVX-512 for bfloat16, the first validation would change the layout for good. Later
    updates would then get wrong gradients, with no more than a warning (bitsandbytes 0.50,
    Linear4bit.forward).
    """
    from bitsandbytes.nn import Linear4bit

    layers = [each for each in model.modules() if isinstance(each, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


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
