"""Selects float32 sizes by their rank from histograms of their bits, so that nothing is held whole.

The bits of floats that are not negative rise with their values. One pass counts sizes by the upper
16 of 31 bits, a second counts those that share the upper bits with a rank by the lower 15: a radix
selection in two passes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from merging.methods import _loops
from merging.methods._survey import Chunk, surveyed
from merging.methods._values import Site

LOWER = 15
"""The lower bits of a float32 size; its sign bit is 0, so 16 are above them."""

Counts = NDArray[np.int64]
Count = Callable[[Tensor, Counts], None]
"""Adds the sizes of one chunk, (n,), to counts."""
PassOver = Callable[[str, Count, int], Counts]
"""Counts all sizes: takes a name for the counts, the function, and how many counts there are."""


class Ranked(NamedTuple):
    """The size at some rank, and how many sizes are smaller."""

    size: float
    below: int


def select(pass_over: PassOver, ranks: Sequence[int]) -> list[Ranked]:
    """Returns the sizes at some ranks, counted from 0 for the smallest."""
    upper = pass_over("upper", _loops.count_upper, 2**16)
    ends = [_place(upper, rank) for rank in ranks]
    bins = sorted({end for end, _ in ends})

    def count(sizes: Tensor, counts: Counts) -> None:
        """Counts the sizes of each bin by their lower bits."""
        for end, own in zip(bins, counts.reshape(len(bins), -1), strict=True):
            _loops.count_lower(sizes, end, own)

    # The bins follow from the ranks, so they name the counts.
    name = f"lower {bins}"
    lower = pass_over(name, count, len(bins) << LOWER).reshape(len(bins), -1)
    found = []
    for (end, before), rank in zip(ends, ranks, strict=True):
        last, under = _place(lower[bins.index(end)], rank - before)
        bits = torch.tensor(end << LOWER | last, dtype=torch.int32)
        found.append(Ranked(float(bits.view(torch.float32)), before + under))
    return found


def select_surveyed(
    stack: Float[Tensor, "vectors *shape"],
    site: Site,
    key: tuple[object, ...],
    sizes_of: Callable[[Chunk], Float[Tensor, "n"]],
    ranks: Sequence[int],
    unit: int = 1,
) -> list[Ranked]:
    """Returns the sizes at some ranks of numbers that are computed from whole tensors.

    Args:
        stack: the tensors, or a block of them.
        site: see merging.methods._survey.surveyed; so are `key` and `unit`.
        sizes_of: computes the sizes of one chunk, none negative, in the working dtype.
        ranks: counted from 0 for the smallest.
    """

    def pass_over(name: str, count: Count, size: int) -> Counts:
        """Counts in a survey."""

        def of(chunk: Chunk) -> Tensor:
            """Returns the counts of a chunk that are not 0: their places and values."""
            counts = np.zeros(size, np.int64)
            count(sizes_of(chunk), counts)
            places = np.flatnonzero(counts)
            return torch.from_numpy(np.stack([places, counts[places]]))

        def join(parts: list[Tensor]) -> Counts:
            """Returns the counts of all chunks."""
            total = np.zeros(size, np.int64)
            for places, counts in (part.numpy() for part in parts):
                total[places] += counts
            return total

        return surveyed(stack, site, (*key, name), of, join, unit)

    if stack.dtype == torch.float64:  # rare, and of few parameters
        sizes = surveyed(stack, site, (*key, "sizes"), sizes_of, torch.cat, unit).numpy()
        ordered = np.sort(sizes)
        return [
            Ranked(float(ordered[rank]), int(np.searchsorted(ordered, ordered[rank])))
            for rank in ranks
        ]

    return select(pass_over, ranks)


def _place(counts: Counts, rank: int) -> tuple[int, int]:
    """Returns the bin of a histogram that holds a rank, and how many entries are below the bin."""
    upto = counts.cumsum()
    place = int(np.searchsorted(upto, rank, side="right"))
    return place, int(upto[place - 1]) if place else 0
