"""Selects float32 sizes by their rank from histograms of their bits, so that nothing is held whole.

The bits of floats that are not negative rise with their values. One pass counts sizes by the upper
16 of 31 bits, a second counts those that share the upper bits with a rank by the lower 15: a radix
selection in two passes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

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

Result = TypeVar("Result")
Counts = NDArray[np.int64]
Count = Callable[[Tensor, Counts], None]
"""Adds the sizes of one chunk, (n,), to counts."""


@runtime_checkable
class PassOver(Protocol):
    """Counts all sizes, and returns what is made of the counts."""

    def __call__(
        self, name: str, count: Count, size: int, then: Callable[[Counts], Result]
    ) -> Result:
        """Counts.

        Args:
            name: what is counted.
            count: counts one chunk.
            size: how many counts there are.
            then: makes the result of the counts of all chunks.
        """


class Ranked(NamedTuple):
    """The size at some rank, and how many sizes are smaller."""

    size: float
    below: int


def select(pass_over: PassOver, ranks: Sequence[int]) -> list[Ranked]:
    """Returns the sizes at some ranks, counted from 0 for the smallest."""
    ends = pass_over(
        "upper",
        _loops.count_upper,
        2**16,
        lambda counts: [_place(counts, rank) for rank in ranks],
    )
    bins = sorted({end for end, _ in ends})

    def count(sizes: Tensor, counts: Counts) -> None:
        """Counts the sizes of each bin by their lower bits."""
        for end, own in zip(bins, counts.reshape(len(bins), -1), strict=True):
            _loops.count_lower(sizes, end, own)

    def ranked(counts: Counts) -> list[Ranked]:
        """Returns the result from the counts by the lower bits."""
        lower, found = counts.reshape(len(bins), -1), []
        for (end, before), rank in zip(ends, ranks, strict=True):
            last, under = _place(lower[bins.index(end)], rank - before)
            bits = torch.tensor(end << LOWER | last, dtype=torch.int32)
            found.append(Ranked(float(bits.view(torch.float32)), before + under))
        return found

    return pass_over("lower", count, len(bins) << LOWER, ranked)


def select_surveyed(
    stack: Float[Tensor, "vectors *shape"],
    site: Site,
    kind: str,
    sizes_of: Callable[[Chunk], Float[Tensor, "n"]],
    ranks: Sequence[int],
    unit: int = 1,
) -> list[Ranked]:
    """Returns the sizes at some ranks of numbers that are computed from whole tensors.

    Args:
        stack: the tensors, or a block of them.
        site: see merging.methods._survey.surveyed; so is `unit`.
        kind: a word for the sizes.
        sizes_of: computes the sizes of one chunk, none negative, in the working dtype.
        ranks: counted from 0 for the smallest.
    """

    def pass_over(name: str, count: Count, size: int, then: Callable[[Counts], Result]) -> Result:
        """Counts in a survey."""

        def of(chunk: Chunk) -> Tensor:
            """Returns the counts of a chunk that are not 0: their places and values."""
            counts = np.zeros(size, np.int64)
            count(sizes_of(chunk), counts)
            places = np.flatnonzero(counts)
            return torch.from_numpy(np.stack([places, counts[places]]))

        def join(parts: list[Tensor]) -> Result:
            """Makes the result of the counts of all chunks."""
            total = np.zeros(size, np.int64)
            for places, counts in (part.numpy() for part in parts):
                total[places] += counts
            return then(total)

        # What is kept is the result: counts would be half a megabyte for each tensor.
        return surveyed(stack, site, (f"{kind} {name}", *ranks), of, join, unit)

    def sort(parts: list[Tensor]) -> list[Ranked]:
        """Returns the result from the sizes of all chunks."""
        ordered = np.sort(torch.cat(parts).numpy())
        return [
            Ranked(float(ordered[rank]), int(np.searchsorted(ordered, ordered[rank])))
            for rank in ranks
        ]

    if stack.dtype == torch.float64:  # rare, and of few parameters
        return surveyed(stack, site, (kind, *ranks), sizes_of, sort, unit)
    return select(pass_over, ranks)


def _place(counts: Counts, rank: int) -> tuple[int, int]:
    """Returns the bin of a histogram that holds a rank, and how many entries are below the bin."""
    upto = counts.cumsum()
    place = int(np.searchsorted(upto, rank, side="right"))
    return place, int(upto[place - 1]) if place else 0
