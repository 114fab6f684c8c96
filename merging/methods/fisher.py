"""Fisher merging: an average of the weights in which each entry counts as much as its model's data depend on it."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site
from merging.methods.linear import combine as average

PAPER = "https://arxiv.org/abs/2111.09832"
FORMULA = "Σ ωᵢ Fᵢ Θᵢ / Σ ωᵢ Fᵢ per entry, Fᵢ the diagonal of the Fisher information of model i on its data"
SPACE = "weights"
SCOPE = "element"
STATISTICS = "fisher"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    floor: Annotated[
        float, Range(0.0, 1.0), "the least Fisher information that an entry has"
    ] = 1e-6,
    unit_norm: Annotated[
        bool, "divide each model's Fisher information by its L2 norm over all tensors"
    ] = True,
) -> Float[Tensor, "*shape"]:
    """The authors' code, its defaults included, but that the floor holds for every model and not for the first only.

    Weights 2 and 5 with Fisher information 3 and 1 and equal ω give (3·2 + 1·5) / 4 = 2.75. Tensors without statistics,
    and entries that no model's data depend on at floor 0, are the average Σ ωᵢ Θᵢ / Σ ωᵢ.
    """
    total, share = torch.zeros_like(stack[0]), torch.zeros_like(stack[0])
    for values, omega, statistic in zip(stack, omegas, site.statistics, strict=True):
        if statistic is None:
            return average(stack, omegas, site)
        # Each product and sum rounded by itself; see weighted_sum.
        factor = omega / statistic.norm if unit_norm and statistic.norm else omega
        weight = statistic.values.clamp(min=floor).mul_(factor)
        share.add_(weight)
        total.add_(weight.mul_(values))
    merged = total.div_(share)
    nowhere = share == 0
    return merged.where(~nowhere, average(stack, omegas, site)) if nowhere.any() else merged


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Shares below 0 could cancel to a division by 0 at any entry."""
    if min(omegas) < 0:
        return f"ω = {min(omegas):g}, and shares of an average are above 0. Give ω from 0 up."
    return None
