"""Loads a model folder into memory, and maps each tensor of its files to the parameter it fills."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from evaluation import parameter_views as views
from evaluation.errors import LoadError
from merging.inputs.checkpoint import Checkpoint
from merging.live.assemble import assemble, empty_module, quiet_loading
from merging.live.live_model import View
from merging.live.loading_dtype import loading_dtype
from merging.live.model_config import read_config
from merging.live.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Loaded:
    """A model in memory, with the map from the tensors of its files to its parameters."""

    module: nn.Module
    """In evaluation mode."""
    tokenizer: Any
    """None if the folder holds none; `notes` then says so."""
    views: dict[str, View]
    """Name of a file tensor -> the region of a parameter that it fills.

    Each region was compared with the file bit for bit.
    """
    reloads: bool
    """True if a tensor that the model uses has no view.

    A composition then cannot be written in place; it must be loaded with `assemble`.
    """
    notes: list[str] = field(default_factory=list)
    """Sentences about this load for the user, such as a missing tokenizer."""


def load(
    folder: str | Path,
    *,
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Loaded:
    """Loads a model folder and finds where each tensor of its files lies in the module.

    Args:
        folder: holds config.json, safetensors files and, to measure or chat, a tokenizer.
        checkpoint: the same folder, opened.
        dtype: of the parameters. By default that in which transformers loads the folder; see
            merging.live.loading_dtype.
        device: where the module is at the end. It is loaded on the CPU first.

    Raises:
        LoadError: the folder does not exist, its config.json asks a loader to run code or names an
            unknown architecture, a tensor is missing or has the wrong shape, or the tokenizer
            cannot be read.
    """
    folder = Path(folder)
    config = _config(folder, checkpoint)
    _refuse_oversize(folder, config, checkpoint)
    dtype = dtype or loading_dtype(empty_module(folder, config).config, checkpoint)
    if dtype not in FLOATS:
        raise LoadError(
            f"{folder}: cannot run in {dtype}; give one of {', '.join(map(str, FLOATS))}."
        )
    # The search for views loads marked tensors in the place of the weights, before the weights are
    # in memory: so it needs no more memory than the load itself.
    candidates = views.find(lambda marked: assemble(folder, marked, dtype=dtype), checkpoint, dtype)
    module = assemble(folder, checkpoint, dtype=dtype).to(device)
    proved = views.prove(candidates, module, checkpoint)
    notes = [*views.notes(proved), *views.shared(proved, module)]
    tokenizer = read_tokenizer(folder, config)
    if tokenizer is None:
        notes.append(
            f"{folder} holds no tokenizer: copy the base model's tokenizer files into it "
            "to measure the model or chat with it"
        )
    elif len(tokenizer) > (rows := module.get_input_embeddings().weight.shape[0]):  # type: ignore[operator]
        notes.append(
            f"the tokenizer knows {len(tokenizer)} tokens, the model {rows}: "
            "texts that use the others fail"
        )
    return Loaded(module, tokenizer, proved.views, bool(proved.unplaced), notes)


def _config(folder: Path, checkpoint: Checkpoint) -> PreTrainedConfig:
    """Returns the checked configuration of a folder that was opened as `checkpoint`."""
    if checkpoint.path.resolve() != folder.resolve():
        raise LoadError(
            f"{folder} was to be loaded with the tensors of {checkpoint.path}. "
            "Open the same folder."
        )
    with quiet_loading():
        return read_config(folder)


def _refuse_oversize(folder: Path, config: PreTrainedConfig, checkpoint: Checkpoint) -> None:
    """Refuses a configuration that is far larger than its weights, before memory is taken for it.

    Raises:
        LoadError: there are more layers than tensors, or more than twice as many parameters as the
            files hold.
    """
    # The number of layers is checked first: even an empty module has objects for every layer, so a
    # hostile number would exhaust memory before the parameters are counted.
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(checkpoint):
        raise LoadError(
            f"{folder / 'config.json'} names {layers} layers; "
            f"the files hold {len(checkpoint)} tensors in all."
        )
    with quiet_loading():
        needed = sum(parameter.numel() for parameter in empty_module(folder, config).parameters())
    # A configuration that is a little too large lacks a tensor; `assemble` reports that by name.
    if needed > 2 * checkpoint.numel:
        raise LoadError(
            f"{folder / 'config.json'} describes {needed:,} parameters; "
            f"the files hold {checkpoint.numel:,}. "
            "Take config.json and the weights from the same model."
        )
