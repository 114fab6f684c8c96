"""Drops entries of deltas at random and scales the others up for it, on whole tensors or blocks.

Whether an entry is dropped depends on the seed, its place in the tensor and, with epsilon, its row;
so the masks of blocks are those of the whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods import _loops
from merging.methods._chunks import CHUNK, in_blocks, row_length
from merging.methods._edits import rescaled, total_magnitude
from merging.methods._survey import Chunk, surveyed
from merging.methods._values import PerVector, Site

STREAM = 2
"""The number of the stream of random numbers: recipes of methods that draw count it.

1 was torch's generator, which gives a tensor's numbers one after the other only. 2 is SplitMix64.
"""


def in_blocks_of_rows(
    shape: Sequence[int], depth: float | None, arguments: Mapping[str, Any]
) -> bool:
    """Whether a tensor is computed in blocks: a large one whose rows fit in a chunk."""
    return in_blocks(shape, depth, arguments) and row_length(shape) <= CHUNK


def sparsify(
    stack: Float[Tensor, "vectors *shape"],
    site: Site,
    *,
    density: PerVector,
    rescale_by: str,
    epsilon: PerVector | None = None,
) -> None:
    """Drops entries of each delta at random and rescales the rest, in place.

    Args:
        stack: the deltas, or a block of each; with epsilon it has whole rows.
        site: has a seed for each delta, and the place of a block.
        density: per delta, the mean probability that an entry is kept.
        rescale_by: "l1" restores the sum of magnitudes, "density" divides by the density, "none"
            leaves the kept entries as they are.
        epsilon: per delta, how far the probability goes below and above the density, from the
            smallest entry of a row to the largest; None for one probability.
    """
    columns = 1 if epsilon is None else site.columns or row_length(stack.shape[1:])

    def drop(values: Tensor, start: int) -> None:
        """Drops entries of deltas that begin at some element."""
        for number, (delta, seed) in enumerate(zip(values, site.seeds, strict=True)):
            share = density[number]
            if share >= 1:
                continue
            if share <= 0:
                delta.zero_()
            elif epsilon is None:
                _loops.drop_at_random(delta, share, seed, start)
            else:
                low, high = share - epsilon[number], share + epsilon[number]
                _loops.drop_by_rank(delta.view(-1, columns), low, high, seed, start)

    def magnitudes(chunk: Chunk) -> Float[Tensor, "2 vectors"]:
        """Returns the sums of magnitudes of a chunk, before and after."""
        left = chunk.values.clone()
        drop(left, chunk.start)
        sums = [[total_magnitude(delta) for delta in values] for values in (chunk.values, left)]
        return torch.tensor(sums, dtype=torch.float64)

    totals = None
    if rescale_by == "l1" and min(density) < 1:
        key = "magnitudes", density, epsilon, site.seeds
        totals = surveyed(stack, site, key, magnitudes, _added, columns)
    drop(stack.flatten(1), site.start)
    for number, delta in enumerate(stack):
        if density[number] >= 1:
            continue
        if totals is not None:
            rescaled(delta, float(totals[0, number]), float(totals[1, number]))
        # A density that the dtype cannot hold keeps nothing, and 0 / 0 would be NaN.
        if rescale_by == "density" and density[number] > torch.finfo(delta.dtype).tiny:
            delta.div_(density[number])


def _added(parts: list[Tensor]) -> Tensor:
    """Adds the sums of chunks one after the other, so that they have the same bits everywhere."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
