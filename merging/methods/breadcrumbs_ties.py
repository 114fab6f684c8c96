"""Model Breadcrumbs with the sign election of TIES: trim both ends, add the deltas that agree."""

from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import (
    Density,
    DivideBy,
    Elect,
    Gamma,
    Lambda,
    NormalizeAgreeing,
    RescaleL1,
)
from merging.methods._sums import sum_agreeing
from merging.methods._values import Site
from merging.methods.breadcrumbs import ranks as ranks
from merging.methods.breadcrumbs import trim
from merging.methods.ties import in_blocks as in_blocks

PAPER = "https://arxiv.org/abs/2312.06795; https://arxiv.org/abs/2306.01708 (signs)"
FORMULA = (
    "Θ + λ · Σ ωᵢ Δᵢ, each Δᵢ without its smallest entries and its largest outliers, "
    "summed over those that have the elected sign"
)
SPACE = "deltas"
SCOPE = "tensor"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    gamma: Gamma = (0.01,),
    # mergekit's default, which is not that of `ties`.
    normalize: NormalizeAgreeing = False,
    rescale: RescaleL1 = False,
    lambda_: Lambda = 1.0,
    elect: Elect = "weighted",
    divide_by: DivideBy = "weight",
) -> Float[Tensor, "*shape"]:
    """Trims each delta as `breadcrumbs` does, elects signs as `ties` does, adds what agrees.

    [4, −1, 3, −2] and [1, 2, −4, −9] at density 0.5 and gamma 0.25 become [0, 0, 3, −2] and
    [0, 2, −4, 0]. At equal ω the third entry elects −, and the result is [0, 2, −4, −2].
    """
    trim(stack, density, gamma, rescale, site)
    return sum_agreeing(
        stack, omegas, normalize=normalize, elect=elect, divide_by=divide_by, lambda_=lambda_
    )
