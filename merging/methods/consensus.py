"""Consensus merging (TALL masks): add the deltas only where they matter to enough of the tasks."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import PerVector, Range, Site
from merging.methods._edits import Lambda, weighted_sum

PAPER = "https://arxiv.org/abs/2405.07813"
FORMULA = "Θ + λ · Σ ωᵢ Δᵢ where at least k tasks have |Δᵢ| > tᵢ · |Σⱼ Δⱼ − Δᵢ|"
SPACE = "deltas"
SCOPE = "element"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    threshold: Annotated[
        PerVector, Range(0.0, 10.0), "t, how much of the others' sum a task must hold against"
    ] = (0.4,),
    least: Annotated[
        int,
        Range(1, 1000),
        "k, the tasks to which an entry must matter; all, where there are fewer",
    ] = 2,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Of [2, 3] and [2, 0] at t = 0.4, the first entry matters to both and the second to one alone: [4, 0].

    The masks do not depend on ω: the paper's multi-task vector is the bare sum.
    """
    total = stack.sum(0)
    votes = sum(
        (delta.abs() > bar * (total - delta).abs()).to(stack.dtype)
        for delta, bar in zip(stack, threshold, strict=True)
    )
    merged = weighted_sum(stack, omegas).mul_(votes >= min(least, len(stack)))
    return merged if lambda_ == 1.0 else merged.mul_(lambda_)
