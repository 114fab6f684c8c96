"""Passes over examples: what chosen linear layers read, and the gradients of their outputs.

A bias is one more weight, of an input that is always 1. So of a layer with a bias the inputs get a
column of ones, and its gradient Σ_p δ_p x_pᵀ has the bias's gradient as its last column.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.prepared import Batch
from influence.errors import InfluenceStopped
from influence.gradients.examples import Examples, numbers
from influence.gradients.taps import Caught, LayerTaps, LinearLayer


class LayerPass(NamedTuple):
    """What was caught in one batch."""

    name: str
    """The set of examples that the batch is from."""
    numbers: Tensor
    """(examples,) int64: the number of each example in the set."""
    layers: dict[str, Caught]
    """Path -> (examples, positions, inputs) and (examples, positions, outputs), in float32, or
    float64 if the model is."""


def layer_passes(
    layers: Mapping[str, LinearLayer],
    sets: Mapping[str, Examples],
    total: Callable[[str, Batch], Tensor],
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[LayerPass]:
    """Yields what the layers did in each batch of all sets.

    Args:
        layers: path -> layer.
        sets: name -> examples.
        total: runs the model on a batch of a set, and returns the number whose gradients are
            caught; a sum over examples keeps them apart.
        should_stop: asked before each batch.

    Raises:
        InfluenceStopped: `should_stop` returned True.
    """
    tapped = {path: layer.module for path, layer in layers.items()}
    for name, examples in sets.items():
        for batch in examples.batches:
            if should_stop():
                raise InfluenceStopped(f"stopped at {name}")
            with LayerTaps(tapped, batch.ids.shape) as taps, torch.enable_grad():
                caught = taps.differentiate(total(name, batch))
            widened = {path: _widened(layers[path], each) for path, each in caught.items()}
            yield LayerPass(name, numbers(batch), widened)


def gradient_shape(layer: LinearLayer) -> tuple[int, int]:
    """Returns (outputs, inputs) of a layer's gradients, with the bias as the last input."""
    outputs, inputs = layer.weight.shape[::-1] if layer.transposed else layer.weight.shape
    return outputs, inputs + (layer.bias is not None)


def wide_dtype(module: nn.Module) -> torch.dtype:
    """Returns float64 for a model in float64, float32 for any other."""
    return torch.promote_types(next(module.parameters()).dtype, torch.float32)


def _widened(layer: LinearLayer, caught: Caught) -> Caught:
    """Returns what was caught in float32 or float64, with a column of ones for a bias."""
    wide = wide_dtype(layer.module)
    inputs = caught.inputs.to(wide)
    if layer.bias is not None:
        inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)
    return Caught(inputs, caught.gradients.to(wide))
