"""NAN: weight each delta by the inverse length of its model's weights, tensor by tensor."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods import _span
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
    base = site.base.reshape(-1)
    lengths = []
    for delta in stack.flatten(1):
        pairs = zip(chunks(delta), chunks(base), strict=True)
        weights = (part + origin for part, origin in pairs)
        lengths.append(_span.length(weights if norm_of == "weights" else chunks(delta)))
    # Each inverse in units of the largest, because 1/‖Θᵢ‖ of a tiny tensor may not be in range. If
    # every tensor is zero, all ω are 0.
    shortest = min((one for one in lengths if one > 0), default=0.0)
    inverse = [shortest / one if one > 0 else 0.0 for one in lengths]
    total = sum(inverse) or 1.0
    shares = [lambda_ * share / total for share in inverse]
    return sum_in_chunks(stack, torch.tensor(shares, dtype=stack.dtype))
