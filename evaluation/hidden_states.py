"""Where examples lie in a model's own space: hidden states at a layer, their t-SNE by dataset, and a silhouette number.

DEM (arXiv 2406.15570, figure 2) plots its datasets by t-SNE without saying of what. Here it is of examples, each the
mean of the hidden states of its tokens. A picture proves little: t-SNE keeps neighbours and neither distances
nor sizes. So the silhouette is taken in the space of the states, never in the picture.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from evaluation.errors import DataError, Stopped
from evaluation.loss import Prepared, vocabulary_size
from evaluation.unpadded import EqualLengthBatch, equal_length_batches

Over = Literal["supervised", "all"]


Metric = Literal["cosine", "euclidean"]


Floats = NDArray[np.float32]


FEWEST = 4
"""Points below which t-SNE has no neighbourhoods to keep: its perplexity would fall below 1."""


@dataclass(frozen=True)
class States:
    """One vector per example."""

    vectors: Floats
    """(N, d)."""
    labels: tuple[str, ...]
    """Per row its dataset."""
    layer: int
    """0 for the embeddings, else the layer that they are the output of; the last is after the final norm where there is one."""
    over: Over


def hidden_states(
    module: nn.Module,
    prepared: Prepared,
    layer: int = -1,
    over: Over = "supervised",
    *,
    should_stop: Callable[[], bool] | None = None,
) -> States:
    """The mean hidden state of each example that `prepare` kept, dataset by dataset, in the order of the examples.

    The states of all layers of one batch are in memory at a time: batch_tokens × (layers + 1) × d × bytes per number.

    Args:
        module: any causal language model of transformers, in evaluation mode, on any device.
        prepared: what `prepare` made with this model's tokenizer. Where it dropped examples there are no rows for them.
        layer: 0 for the embeddings, 1 to L for the output of a layer, or counted from the end: -1 is the last.
        over: "supervised": the mean over the positions that predict a supervised token, which for all but the
            first of them are supervised tokens themselves; "all": over every position up to the last of these.
        should_stop: asked before each batch.

    Raises:
        DataError: no such layer, a token outside the model's vocabulary, or states that are not finite.
        Stopped: `should_stop` said so.
    """
    if over not in ("supervised", "all"):
        raise DataError(f'over is "{over}"; expected "supervised" or "all".')
    if prepared.largest >= (known := vocabulary_size(module)):
        raise DataError(
            f"token {prepared.largest} occurs in the data, the model knows {known} tokens. Use the tokenizer of this model."
        )
    starts, labels = {}, list[str]()
    for dataset in prepared.datasets:
        starts[dataset.name] = len(labels)
        labels += [dataset.name] * dataset.n
    rows: Tensor | None = None
    for part in equal_length_batches(prepared, alone=False):
        if should_stop is not None and should_stop():
            raise Stopped(f"stopped at dataset {part.dataset!r}")
        layers = _layers(module, part)
        if not -len(layers) <= layer < len(layers):
            raise DataError(
                f"layer is {layer}; the model has 0 (embeddings) to {len(layers) - 1}, or -1 for the last."
            )
        found = _mean(layers[layer].float(), part, over).cpu()
        rows = torch.empty(len(labels), found.shape[1]) if rows is None else rows
        rows[torch.tensor(part.examples) + starts[part.dataset]] = found
    assert rows is not None  # prepare refuses what has no examples
    number = layer % len(layers)
    _finite(rows.numpy(), f"hidden states at layer {number}")
    return States(rows.numpy(), tuple(labels), number, over)


@torch.inference_mode()
def _layers(module: nn.Module, part: EqualLengthBatch) -> tuple[Tensor, ...]:
    """(examples, length, d) per layer, the embeddings first."""
    keep = (
        {"logits_to_keep": 1}
        if "logits_to_keep" in inspect.signature(module.forward).parameters
        else {}
    )
    ids = part.ids.to(next(module.parameters()).device)
    layers: tuple[Tensor, ...] = module(
        input_ids=ids, use_cache=False, output_hidden_states=True, **keep
    ).hidden_states
    return layers


def _mean(states: Tensor, part: EqualLengthBatch, over: Over) -> Tensor:
    """(examples, d)."""
    if over == "all":
        return states.mean(1)
    chosen = torch.zeros(part.ids.shape, dtype=states.dtype)
    chosen[part.rows, part.positions] = 1
    weights = (chosen / chosen.sum(1, keepdim=True)).to(states.device)
    return torch.einsum("el,eld->ed", weights, states)


def _rows(vectors: ArrayLike, metric: Metric) -> NDArray[np.float64]:
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2:
        raise DataError(f"vectors have the shape {rows.shape}; expected (examples, numbers).")
    _finite(rows, "vectors")
    if metric == "cosine" and (none := int((rows == 0).all(axis=1).sum())):
        raise DataError(
            f'{none} of {len(rows)} vectors are zero and have no cosine. Leave them out, or use "euclidean".'
        )
    return rows


def _finite(rows: NDArray[np.floating], what: str) -> None:
    if bad := int((~np.isfinite(rows)).any(axis=1).sum()):
        raise DataError(
            f"{bad} of {len(rows)} {what} are not finite. Use a model whose weights are finite, or float32."
        )
