"""LiNeS: scale the sum of the deltas by depth, weakly in early layers and strongly in late ones."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import Lambda
from merging.methods._values import Range, Site
from merging.methods.task_arithmetic import combine as add

PAPER = "https://arxiv.org/abs/2410.17146"
FORMULA = "Θ + λ · (α + β · l / (L−1)) · Σ ωᵢ Δᵢ in layer l of L; α alone outside the layers"
SPACE = "deltas"
SCOPE = "element"
LINEAR = True
ON_DEVICE = True


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    alpha: Annotated[
        float, Range(-10.0, 10.0), "α: the factor in the first layer and outside the layers"
    ] = 0.5,
    beta: Annotated[
        float, Range(-10.0, 10.0), "β: how much the factor grows from the first layer to the last"
    ] = 0.5,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Adds the deltas, scaled by α + β · l/(L−1) in layer l of L: LiNeS (arXiv 2410.17146).

    At α = 0.5 and β = 1 the first of three layers is scaled by 0.5, the second by 1, the third
    by 1.5.

    The paper tunes β on validation data. For several tasks it sets α to the ratio of two sums of
    magnitudes, that of the summed deltas and that of the merged one, over the number of tasks.
    """
    factor = alpha + beta * (site.depth or 0.0)
    return add(stack, omegas, site, lambda_=lambda_ * factor)
