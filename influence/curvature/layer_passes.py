"""Passes over examples: what chosen linear layers read, and the gradients of their outputs.

A bias is one more weight, of an input that is always 1. So of a layer with a bias the inputs get a
column of ones, and its gradient Σ_p δ_p x_pᵀ has the bias's gradient as its last column.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.loss import batch_logits
from evaluation.prepared import Batch, Dataset
from influence.errors import InfluenceStopped
from influence.gradients.taps import Caught, LayerTaps, LinearLayer

Total = Callable[[int, Batch, Tensor], Tensor]
"""(number of the dataset, batch, logits of its supervised tokens) -> what is differentiated."""


class LayerPass(NamedTuple):
    """What was caught in one batch."""

    dataset: int
    """Number of the dataset that the batch is from."""
    examples: Tensor
    """(rows,) int64: the number of each row's example in the dataset."""
    layers: dict[str, Caught]
    """Path -> (rows, positions, inputs) and (rows, positions, outputs), in float32 or float64."""


def layer_passes(
    module: nn.Module,
    layers: Mapping[str, LinearLayer],
    datasets: Sequence[Dataset],
    total: Total,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[LayerPass]:
    """Yields what the layers did in each batch of all datasets.

    Args:
        module: the model, in evaluation mode.
        layers: path -> layer.
        datasets: the examples.
        total: gives the number whose gradients are caught; a sum over examples keeps them apart.
        should_stop: asked before each batch.

    Raises:
        InfluenceStopped: `should_stop` returned True.
    """
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters
    tapped = {path: layer.module for path, layer in layers.items()}
    for number, data in enumerate(datasets):
        for batch in data.batches:
            if should_stop is not None and should_stop():
                raise InfluenceStopped(f"stopped at dataset {data.name!r}")
            with LayerTaps(tapped, batch.ids.shape) as taps, torch.enable_grad():
                logits, positions = batch_logits(module, batch, selects, should_stop)
                picked = logits[batch.rows.to(logits.device), positions]
                wide = picked.to(torch.promote_types(picked.dtype, torch.float32))
                caught = taps.differentiate(total(number, batch, wide))
            found = {path: _widened(layers[path], each) for path, each in caught.items()}
            yield LayerPass(number, examples_of(batch), found)


def examples_of(batch: Batch) -> Tensor:
    """Returns the number of the example in each row of a batch: (rows,) int64."""
    numbers = torch.empty(len(batch.ids), dtype=torch.long)
    numbers[batch.rows] = batch.examples
    return numbers


def tokens_of(batch: Batch) -> Tensor:
    """Returns, for each supervised token, how many its example has: (tokens,) int64."""
    return torch.bincount(batch.rows)[batch.rows]


def gradient_shape(layer: LinearLayer) -> tuple[int, int]:
    """Returns (outputs, inputs) of a layer's gradients, with the bias as the last input."""
    outputs, inputs = layer.weight.shape[::-1] if layer.transposed else layer.weight.shape
    return outputs, inputs + (layer.bias is not None)


def _widened(layer: LinearLayer, caught: Caught) -> Caught:
    """Returns what was caught in float32 or float64, with a column of ones for a bias."""
    wide = torch.promote_types(caught.gradients.dtype, torch.float32)
    inputs = caught.inputs.to(wide)
    if layer.bias is not None:
        inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)
    return Caught(inputs, caught.gradients.to(wide))
