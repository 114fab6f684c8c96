"""The gradients of linear layers, summed over two random halves of each set.

An example's loss is the mean over its supervised tokens, and each example counts alike.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.prepared import Batch
from influence.curvature.layer_passes import gradient_shape, layer_passes, wide_dtype
from influence.gradients.examples import Examples, mean_losses
from influence.gradients.taps import LinearLayer
from merging.engine.task import seed_of


class HalfSums(NamedTuple):
    """What was summed over n sets."""

    gradients: dict[str, Tensor]
    """Path -> (2, n, outputs, inputs), with the bias as the last input."""
    counts: Tensor
    """(2, n) float64: how many examples each half has."""


def half_sums(
    module: nn.Module,
    layers: Mapping[str, LinearLayer],
    sets: Mapping[str, Examples],
    *,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> HalfSums:
    """Sums gradients in one pass; those of a layer that no gradient reaches are 0.

    Args:
        module: the model, in evaluation mode.
        layers: path -> layer.
        sets: name -> examples.
        seed: of the halves. Of an odd number of examples the first half has one more.
        should_stop: asked before each batch.

    Raises:
        InfluenceStopped: `should_stop` returned True.
    """

    def summed(_: str, batch: Batch) -> Tensor:
        return mean_losses(module, batch).sum()

    halves = {name: _halves(name, len(each.records), seed) for name, each in sets.items()}
    places = {name: place for place, name in enumerate(sets)}
    device = next(module.parameters()).device
    sums = {
        path: torch.zeros(
            (2, len(sets), *gradient_shape(layer)),
            dtype=wide_dtype(module),
            device=device,
        )
        for path, layer in layers.items()
    }
    for each in layer_passes(layers, sets, summed, should_stop):
        members = halves[each.name][each.numbers]
        for path, (x, delta) in each.layers.items():
            for half, total in enumerate(sums[path][:, places[each.name]]):
                rows = (members == half).to(device)
                total += delta[rows].flatten(0, 1).T @ x[rows].flatten(0, 1)
    counts = torch.stack([torch.bincount(each, minlength=2) for each in halves.values()], dim=1)
    return HalfSums(sums, counts.double())


def _halves(name: str, count: int, seed: int) -> Tensor:
    """Returns the half, 0 or 1, that each example of a set is in: (count,) int64."""
    generator = torch.Generator().manual_seed(seed_of(seed, name, "half"))
    return torch.randperm(count, generator=generator) % 2
