"""SCE (FuseChat): select entries of high variance, calculate weights, erase minority signs."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods import _span
from merging.methods._chunks import chunks
from merging.methods._edits import rank_window
from merging.methods._sums import with_the_majority
from merging.methods._values import Range, Site

PAPER = "https://arxiv.org/abs/2408.07990"
FORMULA = (
    "Θ + Σ cᵢ Δᵢ / Σ cᵢ, summed over those that have the elected sign; "
    "cᵢ = mean(Δᵢ²) / Σⱼ mean(Δⱼ²) per tensor"
)
SPACE = "deltas"
SCOPE = "tensor"
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
    flat = stack.flatten(1)
    if select_topk < 1:
        _select(flat, select_topk)
    # In float64: where only a vector of a tiny share agrees, its entry is divided by that share.
    column = torch.tensor(_shares(flat, uniform_below), dtype=torch.float64)[:, None]
    for part in chunks(flat):
        # The votes are not weighted by c, as in mergekit.
        agreeing = column * with_the_majority(part)
        divisor = agreeing.sum(0)
        # Where all deltas are 0 nobody agrees, and 0 / 0 would be NaN.
        part[0] = (part * agreeing).sum(0) / divisor.masked_fill_(divisor == 0, 1.0)
    return stack[0]


def _shares(flat: Float[Tensor, "vectors n"], uniform_below: float) -> list[float]:
    """Returns c: the share of each delta in the sum of the mean squares."""
    lengths = [_span.length(chunks(delta)) for delta in flat]
    # Squared in units of the longest, because a square may not be in range.
    longest = max(lengths)
    squares = [(one / longest) ** 2 if longest else 0.0 for one in lengths]
    total = sum(squares) * longest * longest / max(1, flat.shape[1])
    if not longest or total < uniform_below:
        return [1 / len(lengths)] * len(lengths)
    return [square / sum(squares) for square in squares]


def _select(flat: Float[Tensor, "vectors n"], share: float) -> None:
    """Zeros all entries but the ⌊share·k⌋ of highest variance over the vectors, in place.

    k is the number of entries whose variance is not 0.
    """
    # Only the variances of one copy are held: the masks below compute them again, chunk by chunk.
    spread = flat.new_empty(flat.shape[1])
    for part, out in zip(chunks(flat), chunks(spread), strict=True):
        out.copy_(_variance(part))
    count = int(int(spread.count_nonzero()) * share)
    if not count:
        flat.zero_()
        return
    window = rank_window(spread, len(spread) - count, len(spread))
    for part, kept in zip(chunks(flat), window.masks(map(_variance, chunks(flat))), strict=True):
        part.masked_fill_(~kept, 0.0)


def _variance(part: Float[Tensor, "vectors n"]) -> Float[Tensor, "n"]:
    """Returns the variance of each entry over the vectors."""
    return part.var(0, unbiased=False)
