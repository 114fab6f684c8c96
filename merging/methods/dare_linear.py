"""DARE: drop entries of each delta at random, scale up the rest, add the deltas."""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site
from merging.methods._edits import (
    Density,
    Lambda,
    NormalizeSum,
    RescaleBy,
    RescaleDropped,
    drop_at_random,
    summed,
    thin,
)
from merging.methods.task_arithmetic import refusal as refusal

PAPER = "https://arxiv.org/abs/2311.03099"
FORMULA = "Θ + λ · Σ ωᵢ · scaled(Mᵢ ⊙ Δᵢ), each entry of Mᵢ is 1 with probability density"
SPACE = "deltas"
SCOPE = "tensor"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    normalize: NormalizeSum = False,
    rescale: RescaleDropped = True,
    lambda_: Lambda = 1.0,
    rescale_by: RescaleBy = "l1",
) -> Float[Tensor, "*shape"]:
    """At density 0.5, [2, −2, 4, 4] may be left as [2, 0, 4, 0]: the 12 of magnitudes become 6, so the factor is 2."""
    sparsify(stack, density, site.seeds, rescale_by if rescale else "none")
    return summed(stack, omegas * (lambda_ / omegas.sum() if normalize else lambda_))


def sparsify(
    stack: Float[Tensor, "vectors *shape"],
    density: tuple[float, ...],
    seeds: tuple[int, ...],
    rescale_by: str,
) -> None:
    """Drops and rescales each delta in place: 'l1', 'density' or 'none'."""
    for delta, share, seed in zip(stack, density, seeds, strict=True):
        thin(delta, share, rescale_by, partial(drop_at_random, density=share, seed=seed))
