"""Task arithmetic with one ω per vector: Θ + λ·Σ ω_i Δ_i. This is DEM, and the default."""

from collections.abc import Mapping
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site
from merging.methods._edits import divided, weighted_sum

PAPER = "https://arxiv.org/abs/2406.15570 (DEM, equation 2); https://arxiv.org/abs/2212.04089 (one shared λ)"


FORMULA = "Θ + λ · Σ ωᵢ Δᵢ"


SPACE = "deltas"


SCOPE = "element"


LINEAR = True


ON_DEVICE = True


IGNORED = ("density", "rescale")


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    normalize: Annotated[bool, "divide by the sum of the ω"] = False,
    lambda_: Annotated[float, Range(-10.0, 10.0), "a factor on the whole sum"] = 1.0,
) -> Float[Tensor, "*shape"]:
    """The weighted sum of the deltas, in the order given.

    >>> combine(torch.tensor([[1.0, 2.0], [4.0, 0.0]]), torch.tensor([0.5, -1.0]), site).tolist()
    [-3.5, 1.0]
    """
    divisor, factor = scale(omegas, normalize=normalize, lambda_=lambda_)
    total = weighted_sum(stack, omegas)
    if divisor != 1.0:
        divided(total, divisor)
    return total if factor == 1.0 else total.mul_(factor)


def scale(
    omegas: Float[Tensor, "vectors"], *, normalize: bool, lambda_: float
) -> tuple[Tensor | float, float]:
    """What the weighted sum is divided by, and what it is multiplied by then."""
    return omegas.sum() if normalize else 1.0, lambda_


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """A sum of ω that is 0 cannot be divided by; mergekit divides by 1 there, without a word."""
    if arguments["normalize"] and abs(sum(omegas)) < 1e-8:
        return "the ω sum to 0, and it divides by their sum. Change one, or set normalize: false."
    return None
