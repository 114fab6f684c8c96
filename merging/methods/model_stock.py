"""Model Stock: pull the mean of the models back to the base, the more the less they agree."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods import _chunks, _span
from merging.methods._survey import angles
from merging.methods._values import Site

PAPER = "https://arxiv.org/abs/2403.19522"
FORMULA = (
    "Θ + t · mean(Δᵢ), t = N·c / (1 + (N−1)·c), c is the mean cosine over all pairs of the N deltas"
)
SPACE = "deltas"
SCOPE = "tensor"
VECTORS = (2, None)
WEIGHTED = False


def in_blocks(shape: Sequence[int], depth: float | None, arguments: Mapping[str, Any]) -> bool:
    """Whether a tensor is computed in blocks: a large one that has one t."""
    return _chunks.in_blocks(shape, depth, arguments) and not arguments["filter_wise"]


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    filter_wise: Annotated[bool, "compute c and t for each row instead of each tensor"] = False,
) -> Float[Tensor, "*shape"]:
    """Scales the mean of the deltas by how well they agree: Model Stock (arXiv 2403.19522).

    [1, 0] and [1, 1] have the cosine c = √½, so t = 2c / (1 + c) = 0.828 and the result is
    t·[1, 0.5].

    mergekit computes t·mean(Θᵢ) + (1 − t)·Θ instead, which is the same formula but loses digits,
    as a small difference of large numbers.
    """
    if filter_wise:
        rows = stack.view(len(stack), -1, stack.shape[-1])
        shares = _share(_span.directions(rows)[1]).expand(len(stack), -1)
    else:
        rows = stack.view(len(stack), 1, -1)
        shares = factors(stack, omegas, site)[:, None]
    return _span.sum_in_float64(rows, shares).view(stack.shape[1:])


def factors(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    filter_wise: bool = False,
) -> Float[Tensor, "vectors"]:
    """Returns t/N for each of N deltas, for a tensor that has one t, or a block of it."""
    return _share(angles(stack, site).cosines[None]).expand(len(stack))


def _share(cosines: Float[Tensor, "rows vectors vectors"]) -> Float[Tensor, "rows"]:
    """Returns t/N for each row of N deltas from the cosines between them."""
    count = cosines.shape[1]
    # Each pair counts twice in the sum, and the diagonal not at all.
    pairs = cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)
    cosine = pairs / (count * (count - 1))
    divisor = 1 + (count - 1) * cosine
    # A divisor of 0 gives no finite t. Such rows keep the base.
    singular = divisor.abs() < 1e-6
    share: Tensor = torch.where(singular, 0.0, cosine / torch.where(singular, 1.0, divisor))
    return share
