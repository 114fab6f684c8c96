"""DARE with TIES' sign election: drop entries at random, scale up the rest, add the deltas that have the elected sign."""

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site
from merging.methods._edits import (
    Density,
    DivideBy,
    Elect,
    Lambda,
    NormalizeAgreeing,
    RescaleBy,
    RescaleDropped,
    agreed,
)
from merging.methods.dare_linear import sparsify

PAPER = "https://arxiv.org/abs/2311.03099; https://arxiv.org/abs/2306.01708 (signs)"
FORMULA = "Θ + λ · Σ ωᵢ · scaled(Mᵢ ⊙ Δᵢ), over those that have the elected sign"
SPACE = "deltas"
SCOPE = "tensor"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    normalize: NormalizeAgreeing = False,
    rescale: RescaleDropped = True,
    lambda_: Lambda = 1.0,
    rescale_by: RescaleBy = "l1",
    elect: Elect = "weighted",
    divide_by: DivideBy = "weight",
) -> Float[Tensor, "*shape"]:
    """At density 1 nothing is dropped: of [3] and [−2] at equal ω, + is elected and 3 is kept."""
    sparsify(stack, density, site.seeds, rescale_by if rescale else "none")
    return agreed(
        stack, omegas, normalize=normalize, elect=elect, divide_by=divide_by, lambda_=lambda_
    )
