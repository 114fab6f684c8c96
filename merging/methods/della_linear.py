"""DELLA: drop entries at random, small ones more often, scale up the rest, add the deltas."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from merging.methods import task_arithmetic
from merging.methods._contract import Site
from merging.methods._edits import (
    Density,
    Epsilon,
    Lambda,
    NormalizeSum,
    RescaleBy,
    RescaleDropped,
    drop_by_rank,
    summed,
    thin,
)

PAPER = "https://arxiv.org/abs/2406.11617"
FORMULA = "Θ + λ · Σ ωᵢ · scaled(Mᵢ ⊙ Δᵢ), Mᵢ keeps an entry with density ± epsilon by its rank in the row"
SPACE = "deltas"
SCOPE = "tensor"


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
    """At density 0.5 and epsilon 0.25, of [1, −2, 3] the 1 is kept with probability 0.25, −2 with 0.5, 3 with 0.75."""
    sparsify(stack, density, epsilon, site.seeds, rescale_by if rescale else "none")
    return summed(stack, omegas * (lambda_ / omegas.sum() if normalize else lambda_))


def sparsify(
    stack: Float[Tensor, "vectors *shape"],
    density: tuple[float, ...],
    epsilon: tuple[float, ...],
    seeds: tuple[int, ...],
    rescale_by: str,
) -> None:
    """Drops and rescales each delta in place: 'l1', 'density' or 'none'."""
    for delta, share, spread, seed in zip(stack, density, epsilon, seeds, strict=True):
        thin(
            delta,
            share,
            rescale_by,
            partial(drop_by_rank, density=share, epsilon=spread, seed=seed),
        )


def outside(arguments: Mapping[str, Any]) -> str | None:
    """Why these densities and epsilons are no probabilities."""
    for share, spread in zip(arguments["density"], arguments["epsilon"], strict=True):
        if 0 < share < 1 and not 0 < share - spread <= share + spread < 1:
            return (
                f"density {share:g} ± epsilon {spread:g} must lie between 0 and 1. "
                f"Choose an epsilon below {min(share, 1 - share):g}."
            )
    return None


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Probabilities outside 0 to 1, and ω that sum to 0 where they are divided by."""
    return outside(arguments) or task_arithmetic.refusal(omegas, arguments)
