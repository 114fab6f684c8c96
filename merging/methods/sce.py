"""SCE (FuseChat): select entries of high variance, calculate weights, erase minority signs."""

import math
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods import _span
from merging.methods._chunks import CHUNK, chunks
from merging.methods._chunks import in_blocks as in_blocks
from merging.methods._edits import NOTHING, Window
from merging.methods._selection import select_surveyed
from merging.methods._sums import with_the_majority
from merging.methods._survey import Chunk, surveyed
from merging.methods._values import Range, Site

PAPER = "https://arxiv.org/abs/2408.07990"
FORMULA = (
    "Θ + Σ cᵢ Δᵢ / Σ cᵢ, summed over those that have the elected sign; "
    "cᵢ = mean(Δᵢ²) / Σⱼ mean(Δⱼ²) per tensor"
)
SPACE = "deltas"
SCOPE = "tensor"
BY_CHUNKS = True
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    select_topk: Annotated[
        float,
        Range(0.0, 1.0),
        "the share of the entries that is kept: those of highest variance over the models",
    ] = 1.0,
    uniform_below: Annotated[
        float,
        Range(0.0, 1.0),
        "use equal weights if Σ mean(Δᵢ²) is below this, as mergekit does; 0: as the paper",
    ] = 1e-6,
) -> Float[Tensor, "*shape"]:
    """Selects, calculates and erases: SCE of FuseChat (arXiv 2408.07990).

    [3] and [−1] get the weights 0.9 and 0.1. Their sum elects +, so −1 is erased and 3 is kept.
    """
    kept = None if select_topk == 1 else _selected(stack, site, select_topk)
    shares = _shares(stack, site, kept, select_topk, uniform_below)
    flat = stack.flatten(1)
    _keep(flat, kept, site.start)
    # In float64: where only a vector of a tiny share agrees, its entry is divided by that share.
    column = torch.tensor(shares, dtype=torch.float64)[:, None]
    for part in chunks(flat):
        # The votes are not weighted by c, as in mergekit.
        agreeing = column * with_the_majority(part)
        divisor = agreeing.sum(0)
        # Where all deltas are 0 nobody agrees, and 0 / 0 would be NaN.
        part[0] = (part * agreeing).sum(0) / divisor.masked_fill_(divisor == 0, 1.0)
    return stack[0]


class _Kept(NamedTuple):
    """The entries of highest variance of whole tensors."""

    window: Window
    before: tuple[int, ...]
    """How many variances equal the lowest that is kept, before each chunk."""


def _selected(stack: Float[Tensor, "vectors *shape"], site: Site, share: float) -> _Kept:
    """Returns the ⌊share·k⌋ entries of highest variance over the vectors.

    k is the number of entries whose variance is not 0. Equal variances are ranked by position.
    """

    def variance(chunk: Chunk) -> Tensor:
        """Returns the variances of a chunk."""
        return _variance(chunk.values)

    def counted(chunk: Chunk) -> Tensor:
        """Returns the number of entries of a chunk, and how many have a variance."""
        sizes = variance(chunk)
        return torch.tensor([len(sizes), int(sizes.count_nonzero())])

    size, varied = surveyed(stack, site, ("varied",), counted, _total)
    count = int(varied * share)
    if not count:
        return _Kept(NOTHING, ())
    start = size - count
    low, high = select_surveyed(stack, site, "variances", variance, (start, size - 1))
    window = Window(start, size, low.size, high.size, low.below, high.below)

    def equal(chunk: Chunk) -> Tensor:
        """Returns how many variances of a chunk equal the lowest that is kept."""
        return (variance(chunk) == low.size).sum()

    if low.below == start:  # all that equal the lowest are kept, wherever they are
        return _Kept(window, ())
    return _Kept(window, surveyed(stack, site, ("equal", low.size), equal, _running))


def _keep(flat: Float[Tensor, "vectors n"], kept: _Kept | None, start: int) -> None:
    """Zeros all entries but those that are kept, in place.

    Args:
        flat: the tensors from some chunk on.
        kept: None for all.
        start: the first element of that chunk.
    """
    if kept is None:
        return
    if kept.window == NOTHING:
        flat.zero_()
        return
    before = kept.before[start // CHUNK] if kept.before else 0
    window = kept.window._replace(below_low=kept.window.below_low + before)
    # Only the variances of one chunk are held: the masks compute them again.
    for part, mask in zip(chunks(flat), window.masks(map(_variance, chunks(flat))), strict=True):
        part.masked_fill_(~mask, 0.0)


def _shares(
    stack: Float[Tensor, "vectors *shape"],
    site: Site,
    kept: _Kept | None,
    share: float,
    uniform_below: float,
) -> list[float]:
    """Returns c: the share of each delta in the sum of the mean squares of what is kept."""

    def lengths(chunk: Chunk) -> Tensor:
        """Returns the lengths of what is kept of a chunk, and its number of entries."""
        values = chunk.values.clone()
        _keep(values, kept, chunk.start)
        found = [_span.length([delta]) for delta in values]
        return torch.tensor([*found, values.shape[1]], dtype=torch.float64)

    *found, size = surveyed(stack, site, ("lengths", share), lengths, _root_of_squares)
    # Squared in units of the longest, because a square may not be in range.
    longest = max(found)
    squares = [(one / longest) ** 2 if longest else 0.0 for one in found]
    total = sum(squares) * longest * longest / max(1.0, size)
    if not longest or total < uniform_below:
        return [1 / len(found)] * len(found)
    return [square / sum(squares) for square in squares]


def _total(parts: list[Tensor]) -> tuple[int, ...]:
    """Adds the counts of chunks."""
    return tuple(int(each) for each in torch.stack(parts).sum(0))


def _running(parts: list[Tensor]) -> tuple[int, ...]:
    """Returns the sum of the counts before each chunk."""
    return (0, *torch.stack(parts).cumsum(0).tolist())


def _root_of_squares(parts: list[Tensor]) -> list[float]:
    """Returns the lengths of whole deltas from those of their chunks, and the number of entries."""
    table = torch.stack(parts).T.tolist()
    return [*(math.hypot(*row) for row in table[:-1]), sum(table[-1])]


def _variance(part: Float[Tensor, "vectors n"]) -> Float[Tensor, "n"]:
    """Returns the variance of each entry over the vectors; exactly 0 where all are equal."""
    # torch's var over the first axis takes 36 times as long. From the first vector on, because the
    # mean of equal entries may be rounded.
    apart = part - part[0]
    mean, total = torch.zeros_like(part[0]), torch.zeros_like(part[0])
    for row in apart:
        mean.add_(row)
    mean.div_(len(part))
    for row in apart:
        total.add_((row - mean).square_())
    return total.div_(len(part))
