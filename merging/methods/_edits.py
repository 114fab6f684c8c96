"""What several methods do to one delta before it is added: keep some entries, rescale the rest.

Everything works in place on one delta, in the working dtype. Besides the delta, at most one more
copy of it is held, and masks of a byte per element.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merging.methods._chunks import chunks

Ranks = tuple[int, int]
"""The first rank in order of rising magnitude, from 0, and the rank after the last."""
SMALL = 1e-7
"""mergekit's tolerance: a delta whose magnitudes sum to less than this is not scaled."""


def keep_largest(delta: Float[Tensor, "*shape"], density: float) -> None:
    """Zeros all but the ⌊density·n⌋ entries of largest magnitude: TIES (arXiv 2306.01708).

    At least one entry is kept, unless density is 0. [4, −1, 3, −2] at density 0.5 becomes
    [4, 0, 3, 0].

    Args:
        delta: changed in place.
        density: the share that is kept, 0 to 1.
    """
    keep_ranks(delta, largest(delta.numel(), density))


def largest(size: int, density: float) -> Ranks | None:
    """Returns the ranks that `keep_largest` keeps of so many entries; None for all."""
    # As in mergekit: a tensor of fewer than 1/density entries would otherwise lose its whole delta.
    count = max(1, int(density * size)) if density > 0 else 0
    return (size - count, size) if density < 1 else None


def keep_below_outliers(delta: Float[Tensor, "*shape"], density: float, gamma: float) -> None:
    """Zeros the ⌊gamma·n⌋ largest entries and the smallest ones: Breadcrumbs (arXiv 2312.06795).

    ⌊density·n⌋ entries are kept. If density + gamma > 1, fewer outliers are zeroed, so that the
    density holds. [4, −1, 3, −2] at density 0.5 and gamma 0.25 becomes [0, 0, 3, −2].

    Args:
        delta: changed in place.
        density: the share that is kept, 0 to 1.
        gamma: the share of the largest entries that counts as outliers, 0 to 1.
    """
    keep_ranks(delta, below_outliers(delta.numel(), density, gamma))


def below_outliers(size: int, density: float, gamma: float) -> Ranks | None:
    """Returns the ranks that `keep_below_outliers` keeps of so many entries; None for all."""
    count, outliers = int(density * size), int(gamma * size)
    # Counted from the largest entry down, as mergekit does since 0.1.5. Before, it zeroed a whole
    # tensor if ⌊gamma·n⌋ was 0.
    start = max(0, size - count - outliers)
    return (start, start + count) if density < 1 else None


def keep_ranks(delta: Float[Tensor, "*shape"], ranks: Ranks | None) -> None:
    """Zeros all entries but those of some ranks in order of rising magnitude.

    Entries of equal magnitude are ranked by position, so exactly stop − start entries are kept.

    Args:
        delta: changed in place.
        ranks: the first rank that is kept, from 0, and the one after the last; None keeps all.
    """
    if ranks is None:
        return
    start, stop = ranks
    flat = delta.view(-1)
    # rank_window reorders what it is given, so it gets the copy that abs makes.
    keep_window(flat, rank_window(flat.abs(), start, stop) if start < stop else NOTHING)


def keep_windows(stack: Float[Tensor, "vectors n"], windows: Sequence["Window"]) -> None:
    """Zeros all entries of blocks of deltas but those in the window of each, in place."""
    for delta, window in zip(stack, windows, strict=True):
        keep_window(delta, window)


def keep_window(flat: Float[Tensor, "n"], window: "Window") -> None:
    """Zeros all entries but those in a window, in place."""
    if window == EVERYTHING:
        return
    if window == NOTHING:
        flat.zero_()
        return
    for part, kept in zip(
        chunks(flat), window.masks(part.abs() for part in chunks(flat)), strict=True
    ):
        # By their bits: a mask of both values costs masked_fill a branch for each entry.
        bits = part.view(torch.int32 if part.dtype == torch.float32 else torch.int64)
        bits &= -kept.to(bits.dtype)


class Window(NamedTuple):
    """The entries of rank `start` to `stop` − 1, described without indices.

    Attributes:
        start: the first rank in the window.
        stop: the rank after the last one.
        low: the smallest size in the window.
        high: the largest size in the window.
        below_low: how many sizes are smaller than `low`.
        below_high: how many sizes are smaller than `high`.
    """

    start: int
    stop: int
    low: float
    high: float
    below_low: int
    below_high: int

    def masks(self, sizes: Iterable[Float[Tensor, "n"]]) -> Iterator[Bool[Tensor, "n"]]:
        """Yields a mask for each chunk of sizes: True for entries in the window.

        Args:
            sizes: all chunks of the tensor, from first to last.
        """
        # The ranks of entries equal to an end go on from chunk to chunk.
        seen_low, seen_high = self.below_low, self.below_high
        for size in sizes:
            # numpy compares, and counts what is true, several times as fast as torch.
            array = size.numpy()
            # Of the chunks only one holds an end's entries on both sides of its rank.
            if seen_low >= self.start:
                kept = array >= self.low
            else:
                kept, at_low = array > self.low, array == self.low
                seen_low += (count := int(np.count_nonzero(at_low)))
                if seen_low > self.start:
                    kept |= at_low & (at_low.cumsum() + (seen_low - count - 1) >= self.start)
            if seen_high >= self.stop:
                kept &= array < self.high
            else:
                at_high = array == self.high
                seen_high += (count := int(np.count_nonzero(at_high)))
                below = array <= self.high
                if seen_high > self.stop:
                    below ^= at_high & (at_high.cumsum() + (seen_high - count - 1) >= self.stop)
                kept &= below
            yield torch.from_numpy(kept)


EVERYTHING = Window(0, -1, 0.0, 0.0, 0, 0)
"""The window that stands for all entries, whatever their number."""
NOTHING = Window(0, 0, 0.0, 0.0, 0, 0)
"""The window without an entry."""


def rank_window(sizes: Float[Tensor, "n"], start: int, stop: int) -> Window:
    """Finds the window of ranks `start` to `stop` − 1, at least one; it reorders `sizes`."""
    ordered = sizes.numpy()
    # numpy partitions in place. torch's topk and sort return indices, which take twice the memory.
    ordered.partition(sorted({start, stop - 1}))
    low, high = float(ordered[start]), float(ordered[stop - 1])
    below_low = sum(int((part < low).sum()) for part in chunks(sizes))
    below_high = sum(int((part < high).sum()) for part in chunks(sizes))
    return Window(start, stop, low, high, below_low, below_high)


def total_magnitude(delta: Float[Tensor, "*shape"]) -> float:
    """Returns Σ|δ|, summed in float64."""
    return float(sum(part.abs().sum(dtype=torch.float64) for part in chunks(delta.view(-1))))


def rescaled(delta: Float[Tensor, "*shape"], magnitude: float, own: float) -> None:
    """Scales a delta from one sum of magnitudes to another; leaves it if a sum is < SMALL.

    Args:
        delta: changed in place; a whole tensor, or a block of it.
        magnitude: the wanted Σ|δ| of the whole tensor.
        own: its Σ|δ| now.
    """
    if magnitude >= SMALL and own >= SMALL:
        factor = magnitude / own
        if factor <= torch.finfo(delta.dtype).max:
            delta.mul_(factor)
        else:  # δ / own is at most 1, so no step is beyond the magnitude
            delta.div_(own).mul_(magnitude)


def thin(
    delta: Float[Tensor, "*shape"], density: float, rescale: bool, drop: Callable[[Tensor], None]
) -> None:
    """Drops entries of a whole delta and scales the kept ones up for it.

    Args:
        delta: changed in place.
        density: the share that `drop` keeps.
        rescale: restore the sum of magnitudes.
        drop: zeros entries in place.
    """
    before = total_magnitude(delta) if rescale and density < 1 else 0.0
    drop(delta)
    if before:
        rescaled(delta, before, total_magnitude(delta))
