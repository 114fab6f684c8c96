"""Fisher merging: average the weights, each entry weighted by its model's Fisher information."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._values import Range, Site
from merging.methods.linear import combine as average

PAPER = "https://arxiv.org/abs/2111.09832"
FORMULA = (
    "Σ ωᵢ Fᵢ Θᵢ / Σ ωᵢ Fᵢ per entry; Fᵢ is the diagonal of the Fisher information "
    "of model i on its own data"
)
SPACE = "weights"
SCOPE = "element"
STATISTICS = "fisher"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    floor: Annotated[
        float, Range(0.0, 1.0), "smaller Fisher information is raised to this value"
    ] = 1e-6,
    unit_norm: Annotated[
        bool, "divide each model's Fisher information by its L2 norm over all tensors"
    ] = True,
) -> Float[Tensor, "*shape"]:
    """Averages the weights by ω and Fisher information: Matena & Raffel (arXiv 2111.09832).

    Weights 2 and 5 with Fisher information 3 and 1 and equal ω give (3·2 + 1·5) / 4 = 2.75.
    Tensors without statistics become the average Σ ωᵢ Θᵢ / Σ ωᵢ; so do entries whose Fisher
    information is 0 in every model, which needs floor = 0.

    This follows the authors' code with its defaults, with one difference: the floor applies to
    every model, theirs to the first one only.
    """
    # In float64, because the products of weights and Fisher information may leave float32's range.
    total = torch.zeros_like(stack[0], dtype=torch.float64)
    share = torch.zeros_like(total)
    for values, omega, statistic in zip(stack, omegas, site.statistics, strict=True):
        if statistic is None:
            # If one has no statistics, none has: recipe_statistics compares the files.
            return average(stack, omegas, site)
        # Each product and sum is rounded by itself, as in weighted_sum, so that the bits do not
        # depend on the block.
        factor = float(omega) / (statistic.norm if unit_norm and statistic.norm else 1.0)
        weight = statistic.values.double().clamp(min=floor).mul_(factor)
        share.add_(weight)
        total.add_(weight.mul_(values))
    merged = total.div_(share).to(stack.dtype)
    unmeasured = share == 0
    return merged.where(~unmeasured, average(stack, omegas, site)) if unmeasured.any() else merged


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Refuses ω below 0: shares of both signs could cancel to a division by 0 at any entry."""
    if min(omegas) < 0:
        return f"ω is {min(omegas):g}, but the shares of an average cannot be negative. Give ω ≥ 0."
    return None
