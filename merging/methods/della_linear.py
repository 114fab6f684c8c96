"""DELLA: drop entries at random, small ones more often, scale the rest up, add the deltas."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from merging.methods import task_arithmetic
from merging.methods._parameters import (
    Density,
    Epsilon,
    Lambda,
    NormalizeSum,
    RescaleBy,
    RescaleDropped,
)
from merging.methods._random_masks import STREAM, in_blocks_of_rows, sparsify
from merging.methods._sums import sum_in_chunks
from merging.methods._values import Site

PAPER = "https://arxiv.org/abs/2406.11617"
FORMULA = (
    "Θ + λ · Σ ωᵢ · rescaled(Mᵢ ⊙ Δᵢ); the mask Mᵢ keeps an entry with a probability from "
    "density − epsilon (smallest of its row) to density + epsilon (largest)"
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
    normalize: NormalizeSum = False,
    rescale: RescaleDropped = True,
    lambda_: Lambda = 1.0,
    rescale_by: RescaleBy = "l1",
) -> Float[Tensor, "*shape"]:
    """Drops small entries more often than large ones, rescales, adds: DELLA (arXiv 2406.11617).

    Of [1, −2, 3] at density 0.5 and epsilon 0.25, the 1 is kept with probability 0.25, the −2
    with 0.5 and the 3 with 0.75.
    """
    by = rescale_by if rescale else "none"
    sparsify(stack, site, density=density, rescale_by=by, epsilon=epsilon)
    # λ and the divisor are folded into the ω: a few numbers, and no more passes over the tensor.
    return sum_in_chunks(stack, omegas * (lambda_ / omegas.sum() if normalize else lambda_))


def explain_outside(arguments: Mapping[str, Any]) -> str | None:
    """Says which density ± epsilon is not between 0 and 1; None if all are."""
    for share, spread in zip(arguments["density"], arguments["epsilon"], strict=True):
        # At density 0 and 1 nothing is drawn, so epsilon does not matter.
        if 0 < share < 1 and not 0 < share - spread <= share + spread < 1:
            return (
                f"density {share:g} ± epsilon {spread:g} must lie between 0 and 1. "
                f"Choose an epsilon below {min(share, 1 - share):g}."
            )
    return None


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Refuses keep-probabilities outside 0 to 1, and a division by ω that sum to 0."""
    return explain_outside(arguments) or task_arithmetic.refusal(omegas, arguments)
