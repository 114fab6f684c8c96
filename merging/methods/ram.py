"""RAM: keep what only one model changed, average what several models changed."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._values import Range, Site

PAPER = "https://arxiv.org/abs/2601.13572"
FORMULA = "Θ + the mean of those Δᵢ with |Δᵢ| > ε, entry by entry"
SPACE = "deltas"
SCOPE = "element"
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    epsilon: Annotated[
        float, Range(0.0, 1.0), "changes of this size or less count as no change"
    ] = 1e-5,
) -> Float[Tensor, "*shape"]:
    """Averages each entry over the models that changed it: RAM (arXiv 2601.13572).

    Of [2, 4] and [0, 1], one model changed the first entry and both changed the second, so the
    result is [2, 2.5].
    """
    changed = stack.abs() > epsilon
    # Where no model changed the entry the sum is 0 already, and 0 / 0 would be NaN.
    count = changed.sum(0).clamp(min=1)
    return (stack.mul_(changed) / count).sum(0)
