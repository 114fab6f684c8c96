"""DARE with the sign election of TIES: drop at random, rescale, add the deltas that agree."""

from jaxtyping import Float
from torch import Tensor

from merging.methods._chunks import in_blocks as in_blocks
from merging.methods._parameters import (
    Density,
    DivideBy,
    Elect,
    Lambda,
    NormalizeAgreeing,
    RescaleBy,
    RescaleDropped,
)
from merging.methods._random_masks import STREAM, sparsify
from merging.methods._sums import sum_agreeing
from merging.methods._values import Site

PAPER = "https://arxiv.org/abs/2311.03099; https://arxiv.org/abs/2306.01708 (signs)"
FORMULA = (
    "Θ + λ · Σ ωᵢ · rescaled(Mᵢ ⊙ Δᵢ), summed over those that have the elected sign; "
    "each entry of the mask Mᵢ is 1 with probability density, else 0"
)
SPACE = "deltas"
SCOPE = "tensor"
DRAWS = STREAM


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    # mergekit's default, which is not that of `ties`.
    normalize: NormalizeAgreeing = False,
    rescale: RescaleDropped = True,
    lambda_: Lambda = 1.0,
    rescale_by: RescaleBy = "l1",
    elect: Elect = "weighted",
    divide_by: DivideBy = "weight",
) -> Float[Tensor, "*shape"]:
    """Drops and rescales as `dare_linear` does, elects signs as `ties` does, adds what agrees.

    At density 1 nothing is dropped: of [3] and [−2] at equal ω, + is elected and 3 is kept.
    """
    by = rescale_by if rescale else "none"
    sparsify(stack, site, density=density, rescale_by=by)
    return sum_agreeing(
        stack, omegas, normalize=normalize, elect=elect, divide_by=divide_by, lambda_=lambda_
    )
