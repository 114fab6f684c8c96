"""Iso-CTS: Iso-C with its weakest directions replaced by those that single tasks have beside the common ones."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site
from merging.methods._edits import Lambda, is_matrix, mean_of, orthogonal_factor, weighted_sum

PAPER = "https://arxiv.org/abs/2502.04959"
FORMULA = "Θ + λ · mean(σ) · U⊥ V⊥ᵀ, of the common directions of Σ ωᵢ Δᵢ and each ωᵢΔᵢ's own; vectors are averaged"
SPACE = "deltas"
SCOPE = "tensor"
ON_DEVICE = True


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    common: Annotated[
        float, Range(0.0, 1.0), "the share of the directions that all tasks have in common"
    ] = 0.8,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """At common = 1 it is Iso-C. The rest is dealt to the tasks in equal parts, and what is left over is common."""
    if not is_matrix(stack[0]):
        return mean_of(stack, omegas).mul_(lambda_)
    rank, tasks = min(stack.shape[1:]), len(stack)
    each = round((rank - int(rank * common)) / tasks)
    if each * tasks > rank:  # rounded up past the rank
        each -= 1
    shared = rank - each * tasks
    left, sizes, right = torch.linalg.svd(
        weighted_sum(stack, omegas, keep=True), full_matrices=False
    )
    lefts, all_sizes, rights = [left[:, :shared]], [sizes[:shared]], [right[:shared]]
    for delta, omega in zip(stack, omegas, strict=True):
        own = delta * omega
        own -= lefts[0] @ (lefts[0].T @ own)
        left, sizes, right = torch.linalg.svd(own, full_matrices=False)
        lefts.append(left[:, :each])
        all_sizes.append(sizes[:each])
        rights.append(right[:each])
    merged: Tensor = orthogonal_factor(torch.cat(lefts, 1)) @ orthogonal_factor(
        torch.cat(rights, 0)
    )
    return merged.mul_(torch.cat(all_sizes).mean() * lambda_)
