"""Iso-C: the sum of the deltas with all its singular values made equal, so that no task's directions rule."""

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site
from merging.methods._edits import Lambda, is_matrix, mean_of, weighted_sum

PAPER = "https://arxiv.org/abs/2502.04959"
FORMULA = "Θ + λ · mean(σ) · U Vᵀ, of U diag(σ) Vᵀ = Σ ωᵢ Δᵢ; vectors are averaged"
SPACE = "deltas"
SCOPE = "tensor"
ON_DEVICE = True


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Of diag(3, 0) and diag(0, 1) the sum is diag(3, 1), and the result is diag(2, 2)."""
    if not is_matrix(stack[0]):
        return mean_of(stack, omegas).mul_(lambda_)
    left, sizes, right = torch.linalg.svd(weighted_sum(stack, omegas), full_matrices=False)
    merged: Tensor = left @ right
    return merged.mul_(sizes.mean() * lambda_)
