"""NAN: weight each delta by the inverse length of its model's weights, tensor by tensor."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._chunks import chunks
from merging.methods._parameters import Lambda
from merging.methods._sums import sum_in_chunks
from merging.methods._values import Site

PAPER = "https://arxiv.org/abs/2505.16148"
FORMULA = "Θ + λ · Σ ωᵢ Δᵢ, ωᵢ = ‖Θᵢ‖⁻¹ / Σⱼ ‖Θⱼ‖⁻¹ per tensor"
SPACE = "deltas"
SCOPE = "tensor"
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    norm_of: Annotated[
        Literal["weights", "deltas"],
        "invert ‖Θᵢ‖ (weights, as the paper) or ‖Δᵢ‖ (deltas, which differ more between models)",
    ] = "weights",
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Adds the deltas with ω in proportion to 1/‖Θᵢ‖: NAN (arXiv 2505.16148).

    Weights of lengths 1 and 3 get ω = 0.75 and 0.25. A tensor of zeros has no inverse length and
    gets ω = 0.
    """
    squares = torch.zeros(len(stack), dtype=torch.float64)
    for part, origin in zip(chunks(stack.flatten(1)), chunks(site.base.reshape(-1)), strict=True):
        values = part + origin if norm_of == "weights" else part
        squares += values.double().square().sum(1)
    lengths = squares.sqrt().to(stack.dtype)
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    # If every tensor is zero, 0 / 0 would be NaN; so all ω are 0.
    total = inverse.sum().clamp(min=torch.finfo(stack.dtype).tiny)
    return sum_in_chunks(stack, inverse * (lambda_ / total))
