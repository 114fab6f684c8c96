"""SCE (FuseChat): select entries of high variance, calculate a weight per model, erase the minority's signs."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site
from merging.methods._edits import chunks, majority, ranked

PAPER = "https://arxiv.org/abs/2408.07990"
FORMULA = "Θ + Σ cᵢ Δᵢ / Σ cᵢ, over those that have the elected sign, cᵢ = mean(Δᵢ²) / Σ mean(Δⱼ²)"
SPACE = "deltas"
SCOPE = "tensor"
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    select_topk: Annotated[
        float, Range(0.0, 1.0), "the share of entries that is kept, of highest variance"
    ] = 1.0,
    uniform_below: Annotated[
        float,
        Range(0.0, 1.0),
        "equal weights where Σ mean(Δᵢ²) is less, as mergekit; 0 for the paper's",
    ] = 1e-6,
) -> Float[Tensor, "*shape"]:
    """Of [3] and [−1] the weights are 0.9 and 0.1, the sum elects +, and 3 is kept."""
    flat = stack.flatten(1)
    if select_topk < 1:
        _select(flat, select_topk)
    shares = torch.stack([_mean_square(delta) for delta in flat])
    total = float(shares.sum())
    weights = (
        shares / total
        if total >= uniform_below and total > 0
        else torch.full_like(shares, 1 / len(shares))
    )
    column = weights.to(stack.dtype)[:, None]
    for part in chunks(flat):
        agreeing = column * (part.sign() == majority(part))
        part[0] = (part * agreeing).sum(0) / agreeing.sum(0).clamp(min=1e-6)
    return stack[0]


def _select(flat: Float[Tensor, "vectors n"], share: float) -> None:
    """Zeros all entries but the ⌊share·k⌋ of highest variance over the vectors, k those whose variance is not 0."""
    spread = flat.new_empty(flat.shape[1])
    for part, out in zip(chunks(flat), chunks(spread), strict=True):
        out.copy_(_variance(part))
    count = int(int(spread.count_nonzero()) * share)
    if not count:
        flat.zero_()
        return
    window = ranked(spread, len(spread) - count, len(spread))
    for part, kept in zip(chunks(flat), window.masks(map(_variance, chunks(flat))), strict=True):
        part.masked_fill_(~kept, 0.0)


def _variance(part: Float[Tensor, "vectors n"]) -> Float[Tensor, "n"]:
    """Over the vectors; computed twice rather than kept twice."""
    return part.var(0, unbiased=False)


def _mean_square(delta: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Of the whole tensor, in float64."""
    return torch.stack([part.double().square().sum() for part in chunks(delta)]).sum() / max(
        1, delta.numel()
    )
