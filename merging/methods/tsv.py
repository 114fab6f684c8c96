"""TSV-M: keep each delta's leading singular vectors, orthogonalise them across deltas, rebuild."""

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import Lambda
from merging.methods._sums import average_by_count, determined, is_matrix, orthogonal_factor
from merging.methods._values import Site

PAPER = "https://arxiv.org/abs/2412.00081"
FORMULA = (
    "Θ + λ · U⊥ Σ V⊥ᵀ, from the leading r/n singular triples of each of the n ωᵢΔᵢ, r their rank; "
    "tensors that are not matrices are averaged"
)
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
    """Merges the leading singular vectors of all deltas: Task Singular Vectors (arXiv 2412.00081).

    diag(2, 1) and diag(1, 3) have rank 2, so one triple of each is kept: 2 along the first axis
    and 3 along the second. The result is diag(2, 3), while the plain sum is diag(3, 4).

    Equal vectors count once: diag(2, 0) twice gives diag(2, 0).
    """
    if not is_matrix(stack[0]):
        return average_by_count(stack, omegas).mul_(lambda_)
    each = min(stack.shape[1:]) // len(stack)
    # With more vectors than ranks, nothing of each could be kept.
    if not each:
        return average_by_count(stack, omegas).mul_(lambda_)
    lefts, sizes, rights = [], [], []
    for delta, omega in zip(stack, omegas, strict=True):
        left, size, right = torch.linalg.svd(delta * omega, full_matrices=False)
        known = determined(size)
        lefts.append((left * known)[:, :each])
        sizes.append(size[:each])
        rights.append((right * known[:, None])[:each])
    left, right = orthogonal_factor(torch.cat(lefts, 1)), orthogonal_factor(torch.cat(rights, 0))
    merged: Tensor = (left * torch.cat(sizes)) @ right
    return merged.mul_(lambda_)
