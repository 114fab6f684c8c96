"""Iso-C: make all singular values of the summed deltas equal, so that no task dominates."""

from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import Lambda, Outside
from merging.methods._spectrum import averaged, decomposed, polar
from merging.methods._sums import average_by_count, weighted_sum
from merging.methods._values import Site

PAPER = "https://arxiv.org/abs/2502.04959"
FORMULA = (
    "Θ + λ · mean(σ) · U Vᵀ, where U diag(σ) Vᵀ is the SVD of Σ ωᵢ Δᵢ, without its σ = 0; "
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
    """Replaces the singular values of the sum by their mean: Iso-C (arXiv 2502.04959).

    diag(3, 0) and diag(0, 1) sum to diag(3, 1), and the result is diag(2, 2).

    A direction that the sum does not have stays 0: diag(3, 0) gives diag(1.5, 0). The authors' code
    would add mean(σ) in a direction that the SVD's rounding chooses.
    """
    if not decomposed(stack.shape[1:], site.depth, outside):
        return average_by_count(stack, omegas).mul_(lambda_)
    factor, sizes = polar(weighted_sum(stack, omegas))
    return factor.mul_(sizes.mean() * lambda_)
