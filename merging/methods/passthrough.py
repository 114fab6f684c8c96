"""Passthrough: copy one model, scaled if wanted; made for recipes that restack layers."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._values import PerVector, Range, Site

PAPER = "https://arxiv.org/abs/2312.15166 (depth up-scaling, its usual purpose)"
FORMULA = "scale · Θ₁"
SPACE = "weights"
SCOPE = "element"
VECTORS = (1, 1)
WEIGHTED = False
LINEAR = True
ON_DEVICE = True


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    scale: Annotated[PerVector, Range(-1000.0, 1000.0), "a factor on the weights"] = (1.0,),
) -> Float[Tensor, "*shape"]:
    """Returns the weights of the one model, times `scale`.

    [1, −2] at scale 0.5 becomes [0.5, −1].
    """
    return stack[0] if scale[0] == 1.0 else stack[0].mul_(scale[0])
