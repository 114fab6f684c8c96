"""Consensus merging (TALL masks): add the deltas only at entries that matter to enough tasks."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import Lambda
from merging.methods._sums import weighted_sum
from merging.methods._values import PerVector, Range, Site

PAPER = "https://arxiv.org/abs/2405.07813"
FORMULA = "Θ + λ · Σ ωᵢ Δᵢ where at least k tasks have |Δᵢ| > tᵢ · |Σⱼ Δⱼ − Δᵢ|; Θ elsewhere"
SPACE = "deltas"
SCOPE = "element"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    threshold: Annotated[
        PerVector,
        Range(0.0, 10.0),
        "t: an entry matters to a task if its change exceeds t times the others' summed change",
    ] = (0.4,),
    least: Annotated[
        int,
        Range(1, 1000),
        "k: to how many tasks an entry must matter; all of them if there are fewer than k",
    ] = 2,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Adds the deltas at entries that matter to enough tasks: TALL masks (arXiv 2405.07813).

    Of [2, 3] and [2, 0] at t = 0.4, the first entry matters to both tasks and the second to one:
    the result is [4, 0]. The masks do not depend on ω, because the paper's multi-task vector is
    the unweighted sum.
    """
    # In float64: where all others are 0, the rounding of a float32 sum would count as a change.
    total = stack.sum(0, dtype=torch.float64)
    # Counted before weighted_sum, which overwrites the stack.
    votes = sum(
        (delta.abs() > limit * (total - delta).abs()).to(stack.dtype)
        for delta, limit in zip(stack, threshold, strict=True)
    )
    merged = weighted_sum(stack, omegas).mul_(votes >= min(least, len(stack)))
    return merged if lambda_ == 1.0 else merged.mul_(lambda_)
