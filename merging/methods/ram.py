"""RAM: what one model alone has changed is kept whole, what several have changed is averaged."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site

PAPER = "https://arxiv.org/abs/2601.13572"
FORMULA = "Θ + Σ Δᵢ / number of i with |Δᵢ| > ε, over those i"
SPACE = "deltas"
SCOPE = "element"
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    epsilon: Annotated[float, Range(0.0, 1.0), "changes of at most this size do not count"] = 1e-5,
) -> Float[Tensor, "*shape"]:
    """Of [2, 4] and [0, 1], the first entry is one model's alone, and the second is shared: [2, 2.5]."""
    changed = stack.abs() > epsilon
    count = changed.sum(0).clamp(min=1)
    return (stack.mul_(changed) / count).sum(0)
