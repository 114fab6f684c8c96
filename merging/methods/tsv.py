"""TSV-M: keep each delta's leading singular vectors, make those of all deltas orthogonal, and rebuild."""

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site
from merging.methods._edits import Lambda, is_matrix, mean_of, orthogonal_factor

PAPER = "https://arxiv.org/abs/2412.00081"
FORMULA = "Θ + λ · U⊥ Σ V⊥ᵀ, from the leading r/n singular triples of each of n ωᵢΔᵢ; vectors are averaged"
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
    """Of diag(2, 1) and diag(1, 3), of rank 2, one triple each is kept, 2 along the first axis and 3 along the second:
    diag(2, 3), where the sum is diag(3, 4)."""
    if not is_matrix(stack[0]):
        return mean_of(stack, omegas).mul_(lambda_)
    each = min(stack.shape[1:]) // len(stack)
    if not each:  # more vectors than ranks: nothing of each could be kept
        return mean_of(stack, omegas).mul_(lambda_)
    lefts, sizes, rights = [], [], []
    for delta, omega in zip(stack, omegas, strict=True):
        left, size, right = torch.linalg.svd(delta * omega, full_matrices=False)
        lefts.append(left[:, :each])
        sizes.append(size[:each])
        rights.append(right[:each])
    left, right = orthogonal_factor(torch.cat(lefts, 1)), orthogonal_factor(torch.cat(rights, 0))
    merged: Tensor = (left * torch.cat(sizes)) @ right
    return merged.mul_(lambda_)
