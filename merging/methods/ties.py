"""TIES: trim the small entries of each delta, elect a sign for each entry, add up the deltas that agree with it."""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site
from merging.methods._edits import (
    Density,
    DivideBy,
    Elect,
    Lambda,
    NormalizeAgreeing,
    RescaleL1,
    agreed,
    keep_largest,
    thin,
)

PAPER = "https://arxiv.org/abs/2306.01708"
FORMULA = "Θ + λ · Σ ωᵢ Δᵢ / Σ ωᵢ, over the Δᵢ that are trimmed to their largest entries and have the elected sign"
SPACE = "deltas"
SCOPE = "tensor"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    normalize: NormalizeAgreeing = True,
    rescale: RescaleL1 = False,
    lambda_: Lambda = 1.0,
    elect: Elect = "weighted",
    divide_by: DivideBy = "weight",
) -> Float[Tensor, "*shape"]:
    """mergekit's numbers by default; the paper's are density 0.2, elect "unweighted", divide_by "count".

    Of [1, 5, 3, 4] and [0, 1, 2, −6], both trimmed to half, [0, 5, 0, 4] and [0, 0, 2, −6] are left. At equal ω the
    last entry elects −, and the result is [0, 5, 2, −6].
    """
    for delta, share in zip(stack, density, strict=True):
        thin(delta, share, "l1" if rescale else "none", partial(keep_largest, density=share))
    return agreed(
        stack, omegas, normalize=normalize, elect=elect, divide_by=divide_by, lambda_=lambda_
    )
