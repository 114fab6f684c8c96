"""TSV-M: keep each delta's leading singular vectors, orthogonalise them across deltas, rebuild."""

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import Lambda, Outside
from merging.methods._spectrum import averaged, decomposed, polar, triplets
from merging.methods._sums import average_by_count
from merging.methods._values import Site

PAPER = "https://arxiv.org/abs/2412.00081"
FORMULA = (
    "Θ + λ · U⊥ Σ V⊥ᵀ, from the leading r/n singular triples of each of the n ωᵢΔᵢ, r their rank; "
    "tensors that are not matrices of layers are averaged"
)
SPACE = "deltas"
SCOPE = "tensor"
ON_DEVICE = True
in_blocks = averaged


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    outside: Outside = False,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Merges the leading singular vectors of all deltas: Task Singular Vectors (arXiv 2412.00081).

    diag(2, 1) and diag(1, 3) have rank 2, so one triple of each is kept: 2 along the first axis
    and 3 along the second. The result is diag(2, 3), while the plain sum is diag(3, 4).

    Equal vectors count once: diag(2, 0) twice gives diag(2, 0).
    """
    if not decomposed(stack.shape[1:], site.depth, outside):
        return average_by_count(stack, omegas).mul_(lambda_)
    each = min(stack.shape[1:]) // len(stack)
    # With more vectors than ranks, nothing of each could be kept.
    if not each:
        return average_by_count(stack, omegas).mul_(lambda_)
    lefts, sizes, rights = [], [], []
    for delta, omega in zip(stack, omegas, strict=True):
        left, size, right = triplets(delta * omega, each).determined()
        lefts.append(left)
        sizes.append(size)
        rights.append(right)
    left, right = polar(torch.cat(lefts, 1))[0], polar(torch.cat(rights, 0))[0]
    merged: Tensor = (left * torch.cat(sizes)) @ right
    return merged.mul_(lambda_)
