"""DELLA with sign election: drop entries at random, small ones more often, add what agrees."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import (
    Density,
    DivideBy,
    Elect,
    Epsilon,
    Lambda,
    NormalizeAgreeing,
    RescaleBy,
    RescaleDropped,
)
from merging.methods._random_masks import STREAM, in_blocks_of_rows, sparsify
from merging.methods._sums import sum_agreeing
from merging.methods._values import Site
from merging.methods.della_linear import explain_outside

PAPER = "https://arxiv.org/abs/2406.11617"
FORMULA = (
    "Θ + λ · Σ ωᵢ · rescaled(Mᵢ ⊙ Δᵢ) / Σ ωᵢ, summed over those that have the elected sign; "
    "the mask Mᵢ keeps large entries more often than small ones"
)
SPACE = "deltas"
SCOPE = "tensor"
DRAWS = STREAM
BY_ROWS = True
in_blocks = in_blocks_of_rows


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    epsilon: Epsilon = (0.15,),
    # mergekit's default, which is not that of `della_linear`.
    normalize: NormalizeAgreeing = True,
    rescale: RescaleDropped = True,
    lambda_: Lambda = 1.0,
    rescale_by: RescaleBy = "l1",
    elect: Elect = "weighted",
    divide_by: DivideBy = "weight",
) -> Float[Tensor, "*shape"]:
    """Drops and rescales as `della_linear` does, elects signs as `ties` does, adds what agrees.

    This is MAGPRUNE, election and fusion of DELLA (arXiv 2406.11617). At density 1 nothing is
    dropped: of [3] and [−2] at equal ω, + is elected and 3 is kept.
    """
    by = rescale_by if rescale else "none"
    sparsify(stack, site, density=density, rescale_by=by, epsilon=epsilon)
    return sum_agreeing(
        stack, omegas, normalize=normalize, elect=elect, divide_by=divide_by, lambda_=lambda_
    )


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Refuses keep-probabilities that are not between 0 and 1."""
    return explain_outside(arguments)
