"""Computes one hidden-state vector per example: the mean over its tokens at one layer.

DEM (arXiv 2406.15570, figure 2) shows its datasets by t-SNE and does not say which vectors were
drawn. Here evaluation/layout.py draws these ones.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.cpu_products import CpuProducts
from evaluation.errors import DataError, Stopped
from evaluation.prepared import Prepared, check_vocabulary
from evaluation.unpadded import EqualLengthBatch, equal_length_batches

Over = Literal["supervised", "all"]
"""The tokens that the mean is taken over."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class States:
    """The hidden states of N examples, one vector each."""

    vectors: Floats
    """(N, d), d being the model's hidden size."""
    labels: tuple[str, ...]
    """The dataset of each row."""
    layer: int
    """0 for the embeddings, else the layer whose output the vectors are.

    The output of the last layer is taken after the final norm, if the model has one.
    """
    over: Over


def hidden_states(
    module: nn.Module,
    prepared: Prepared,
    layer: int = -1,
    over: Over = "supervised",
    *,
    should_stop: Callable[[], bool] | None = None,
) -> States:
    """Computes the mean hidden state of each example, dataset by dataset, in their order.

    All layers of one batch are in memory at a time: batch_tokens × (layers + 1) × d × bytes per
    number.

    Args:
        module: any causal language model of transformers, in evaluation mode, on any device.
        prepared: what `prepare` made with this model's tokenizer. An example that it left out has
            no row.
        layer: 0 for the embeddings, 1 to L for the output of a layer. Negative numbers count from
            the end: -1 is the last layer.
        over: "supervised" takes the mean over the positions that predict a supervised token. All
            of these but the first are supervised tokens themselves. "all" takes it over every
            position up to the last of these.
        should_stop: asked before each batch.

    Raises:
        DataError: there is no such layer, a token is outside the model's vocabulary, or states are
            not finite.
        Stopped: `should_stop` returned True.
    """
    if over not in ("supervised", "all"):
        raise DataError(f'over is "{over}"; expected "supervised" or "all".')
    check_vocabulary(module, prepared)
    starts, labels = {}, list[str]()
    for dataset in prepared.datasets:
        starts[dataset.name] = len(labels)
        labels += [dataset.name] * dataset.n
    rows: Tensor | None = None
    # Batches without padding: a layer that mixes tokens of a batch (experts) would see it.
    for batch in equal_length_batches(prepared, alone=False):
        if should_stop is not None and should_stop():
            raise Stopped(f"stopped at dataset {batch.dataset!r}")
        layers = layer_states(module, batch.ids)
        if not -len(layers) <= layer < len(layers):
            raise DataError(
                f"layer is {layer}; the model has 0 (embeddings) to {len(layers) - 1}, "
                "or -1 for the last."
            )
        # In float32, because a mean in bfloat16 loses digits on every position that is added.
        means = _mean(layers[layer].float(), batch, over).cpu()
        # The size d of a state is known only now: not every configuration names it.
        rows = torch.empty(len(labels), means.shape[1]) if rows is None else rows
        # Batches are sorted by length, so each row goes back to the place of its example.
        rows[torch.tensor(batch.examples) + starts[batch.dataset]] = means
    assert rows is not None  # prepare refuses a dataset without examples
    number = layer % len(layers)
    check_finite(rows.numpy(), f"hidden states at layer {number}")
    return States(rows.numpy(), tuple(labels), number, over)


@torch.inference_mode()
def layer_states(module: nn.Module, ids: Tensor) -> tuple[Tensor, ...]:
    """Returns the states (examples, length, d) of each layer, the embeddings first.

    Args:
        module: a causal language model of transformers, in evaluation mode, on any device.
        ids: (examples, length) int64, without padding.
    """
    # The logits are not needed; without this all positions would go through the output layer.
    keep = (
        {"logits_to_keep": 1}
        if "logits_to_keep" in inspect.signature(module.forward).parameters
        else {}
    )
    ids = ids.to(next(module.parameters()).device)
    with CpuProducts():
        layers: tuple[Tensor, ...] = module(
            input_ids=ids, use_cache=False, output_hidden_states=True, **keep
        ).hidden_states
    return layers


def _mean(states: Tensor, batch: EqualLengthBatch, over: Over) -> Tensor:
    """Returns the mean (examples, d) of states (examples, length, d) over positions."""
    if over == "all":
        return states.mean(1)
    supervised = torch.zeros(batch.ids.shape, dtype=states.dtype)
    supervised[batch.rows, batch.positions] = 1
    weights = (supervised / supervised.sum(1, keepdim=True)).to(states.device)
    return torch.einsum("el,eld->ed", weights, states)


def check_finite(rows: NDArray[np.floating], what: str) -> None:
    """Refuses vectors that hold NaN or infinity.

    Args:
        rows: (N, d).
        what: the vectors are, for the message.

    Raises:
        DataError: saying how many of the rows are not finite.
    """
    if bad := int((~np.isfinite(rows)).any(axis=1).sum()):
        raise DataError(
            f"{bad} of {len(rows)} {what} are not finite. "
            "Use a model whose weights are finite, or float32."
        )
