"""The gradients of linear layers, summed over two random halves of each dataset.

An example's loss is the mean over its supervised tokens, and each example counts alike.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from evaluation.prepared import Batch, Prepared
from influence.curvature.layer_passes import gradient_shape, layer_passes, tokens_of
from influence.gradients.taps import LinearLayer
from merging.engine.loop import seed_of


class HalfSums(NamedTuple):
    """What was summed over n datasets."""

    gradients: dict[str, Tensor]
    """Path -> (2, n, outputs, inputs), with the bias as the last input."""
    counts: Tensor
    """(2, n) float64: how many examples each half has."""


def half_sums(
    module: nn.Module,
    layers: Mapping[str, LinearLayer],
    prepared: Prepared,
    *,
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
) -> HalfSums:
    """Sums gradients in one pass; those of a layer that no gradient reaches are 0.

    Args:
        module: the model, in evaluation mode.
        layers: path -> layer.
        prepared: the datasets.
        seed: of the halves. Of an odd number of examples the first half has one more.
        should_stop: asked before each batch.

    Raises:
        InfluenceStopped: `should_stop` returned True.
    """

    def mean_losses(_: int, batch: Batch, logits: Tensor) -> Tensor:
        losses = cross_entropy(logits, batch.targets.to(logits.device), reduction="none")
        return (losses / tokens_of(batch).to(losses)).sum()

    datasets = prepared.datasets
    halves = [_halves(data.name, data.n, seed) for data in datasets]
    weight = next(module.parameters())
    sums = {
        path: torch.zeros(
            (2, len(datasets), *gradient_shape(layer)),
            dtype=torch.promote_types(weight.dtype, torch.float32),
            device=weight.device,
        )
        for path, layer in layers.items()
    }
    for each in layer_passes(module, layers, datasets, mean_losses, should_stop):
        numbers = halves[each.dataset][each.examples]
        for path, (x, delta) in each.layers.items():
            for half, total in enumerate(sums[path][:, each.dataset]):
                rows = (numbers == half).to(x.device)
                total += delta[rows].flatten(0, 1).T @ x[rows].flatten(0, 1)
    counts = torch.stack([torch.bincount(half, minlength=2) for half in halves], dim=1)
    return HalfSums(sums, counts.double())


def _halves(name: str, count: int, seed: int) -> Tensor:
    """Returns the half, 0 or 1, that each example of a dataset is in: (count,) int64."""
    generator = torch.Generator().manual_seed(seed_of(seed, name, "half"))
    return torch.randperm(count, generator=generator) % 2
