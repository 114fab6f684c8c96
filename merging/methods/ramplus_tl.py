"""RAM+ per tensor: RAM with amplified unique changes for models that share much with others."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._chunks import chunks
from merging.methods._values import Range, Site

PAPER = "https://arxiv.org/abs/2601.13572"
FORMULA = (
    "Θ + (1 + r · min(sharedᵢ / uniqueᵢ, α)) · Δᵢ where only model i changed the entry, "
    "Θ + the mean of those Δᵢ where several did; shared and unique count entries of the tensor"
)
SPACE = "deltas"
SCOPE = "tensor"
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    r: Annotated[float, Range(0.0, 10.0), "how strongly unique changes are amplified"] = 0.1,
    alpha: Annotated[
        float, Range(0.0, 10.0), "the upper limit of the ratio of shared to unique entries"
    ] = 0.2,
    epsilon: Annotated[
        float, Range(0.0, 1.0), "changes of this size or less count as no change"
    ] = 1e-5,
) -> Float[Tensor, "*shape"]:
    """Averages shared changes and amplifies unique ones: RAM+ (arXiv 2601.13572), per tensor.

    Of [2, 4] and [0, 1] the first model has one unique and one shared entry, a ratio of 1 that
    α limits to 0.2. So its unique 2 becomes 2·(1 + 0.1·0.2), and the shared entry becomes 2.5.
    """
    flat = stack.flatten(1)
    unique = torch.zeros(len(flat), dtype=torch.long)
    shared = torch.zeros_like(unique)
    for part in chunks(flat):
        changed = part.abs() > epsilon
        alone = changed.sum(0) == 1
        unique += (changed & alone).sum(1)
        shared += (changed & ~alone).sum(1)
    # A model without unique entries divides by epsilon, as in mergekit; α limits the ratio then.
    ratio = shared / unique.to(stack.dtype).clamp(min=epsilon)
    factor = (1 + r * ratio.nan_to_num(0.0, posinf=alpha).clamp(0, alpha)).to(stack.dtype)[:, None]
    for part in chunks(flat):
        changed = part.abs() > epsilon
        count = changed.sum(0)
        part[0] = (part * changed * torch.where(count == 1, factor, 1 / count.clamp(min=1))).sum(0)
    return stack[0]
