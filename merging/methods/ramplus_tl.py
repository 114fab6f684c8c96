"""RAM+ per tensor: as RAM, and what a model alone has changed is amplified where it shares much with others."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site
from merging.methods._edits import chunks

PAPER = "https://arxiv.org/abs/2601.13572"
FORMULA = "Θ + Σ (1 + r · min(sharedᵢ / uniqueᵢ, α)) Δᵢ where Δᵢ is alone, the mean where it is not"
SPACE = "deltas"
SCOPE = "tensor"
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    r: Annotated[float, Range(0.0, 10.0), "how much what is unique is amplified"] = 0.1,
    alpha: Annotated[
        float, Range(0.0, 10.0), "the most that the ratio of shared to unique entries counts"
    ] = 0.2,
    epsilon: Annotated[float, Range(0.0, 1.0), "changes of at most this size do not count"] = 1e-5,
) -> Float[Tensor, "*shape"]:
    """Of [2, 4] and [0, 1] the first model has one unique and one shared entry: its 2 becomes 2·(1 + 0.1·0.2)."""
    flat = stack.flatten(1)
    unique = torch.zeros(len(flat), dtype=torch.long)
    shared = torch.zeros_like(unique)
    for part in chunks(flat):
        changed = part.abs() > epsilon
        alone = changed.sum(0) == 1
        unique += (changed & alone).sum(1)
        shared += (changed & ~alone).sum(1)
    # mergekit's divisor: epsilon where nothing is unique
    ratio = shared / unique.to(stack.dtype).clamp(min=epsilon)
    factor = (1 + r * ratio.nan_to_num(0.0, posinf=alpha).clamp(0, alpha)).to(stack.dtype)[:, None]
    for part in chunks(flat):
        changed = part.abs() > epsilon
        count = changed.sum(0)
        part[0] = (part * changed * torch.where(count == 1, factor, 1 / count.clamp(min=1))).sum(0)
    return stack[0]
