"""DELLA with sign election: drop entries at random, small ones more often, add the deltas that have the elected sign."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site
from merging.methods._edits import (
    Density,
    DivideBy,
    Elect,
    Epsilon,
    Lambda,
    NormalizeAgreeing,
    RescaleBy,
    RescaleDropped,
    agreed,
)
from merging.methods.della_linear import outside, sparsify

PAPER = "https://arxiv.org/abs/2406.11617"
FORMULA = "Θ + λ · Σ ωᵢ · scaled(Mᵢ ⊙ Δᵢ) / Σ ωᵢ, over those that have the elected sign"
SPACE = "deltas"
SCOPE = "tensor"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    epsilon: Epsilon = (0.15,),
    normalize: NormalizeAgreeing = True,
    rescale: RescaleDropped = True,
    lambda_: Lambda = 1.0,
    rescale_by: RescaleBy = "l1",
    elect: Elect = "weighted",
    divide_by: DivideBy = "weight",
) -> Float[Tensor, "*shape"]:
    """At density 1 nothing is dropped: of [3] and [−2] at equal ω, + is elected and 3 is kept."""
    sparsify(stack, density, epsilon, site.seeds, rescale_by if rescale else "none")
    return agreed(
        stack, omegas, normalize=normalize, elect=elect, divide_by=divide_by, lambda_=lambda_
    )


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Probabilities outside 0 to 1."""
    return outside(arguments)
