"""Model interpolation: the weighted average of the fine-tuned models, Σ ωᵢ Θᵢ / Σ ωᵢ."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._sums import divide, weighted_sum
from merging.methods._values import Site
from merging.methods.task_arithmetic import refusal as refusal

PAPER = (
    "https://arxiv.org/abs/2406.15570 (DEM, equation 3); "
    "https://arxiv.org/abs/2203.05482 (model soups)"
)
FORMULA = "Σ ωᵢ Θᵢ / Σ ωᵢ"
SPACE = "weights"
SCOPE = "element"
LINEAR = True
ON_DEVICE = True


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    normalize: Annotated[
        bool, "divide by the sum of the ω, so that the weights keep their scale"
    ] = True,
) -> Float[Tensor, "*shape"]:
    """Averages the fine-tuned weights: DEM, equation 3 (arXiv 2406.15570).

    The sum runs in the order of the stack. mergekit's `linear` has the same formula.

    >>> combine(torch.tensor([[1.0, 2.0], [4.0, 0.0]]), torch.tensor([1.0, 3.0]), site).tolist()
    [3.25, 0.5]
    """
    return divide(weighted_sum(stack, omegas), scale(omegas, normalize=normalize)[0])


def scale(omegas: Float[Tensor, "vectors"], *, normalize: bool) -> tuple[Tensor | float, float]:
    """Returns what the weighted sum is divided by, and what it is multiplied by after that."""
    return omegas.sum() if normalize else 1.0, 1.0
