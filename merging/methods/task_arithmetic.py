"""Task arithmetic with one ω per vector, Θ + λ·Σ ωᵢ Δᵢ: DEM's formula, and the default method."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import Lambda, NormalizeSum
from merging.methods._sums import cancel, divide, weighted_sum
from merging.methods._values import Site

PAPER = (
    "https://arxiv.org/abs/2406.15570 (DEM, equation 2); "
    "https://arxiv.org/abs/2212.04089 (one shared λ)"
)


FORMULA = "Θ + λ · Σ ωᵢ Δᵢ"


SPACE = "deltas"


SCOPE = "element"


LINEAR = True


ON_DEVICE = True


# mergekit accepts both here and does nothing with them, so a recipe may have them.
IGNORED = ("density", "rescale")


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    normalize: NormalizeSum = False,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Adds the weighted deltas: DEM, equation 2 (arXiv 2406.15570).

    The sum runs in the order of the stack.

    >>> combine(torch.tensor([[1.0, 2.0], [4.0, 0.0]]), torch.tensor([0.5, -1.0]), site).tolist()
    [-3.5, 1.0]
    """
    divisor, factor = scale(omegas, normalize=normalize, lambda_=lambda_)
    total = weighted_sum(stack, omegas)
    # A division or product by 1 changes no bit, but it would cost one more pass over the memory.
    if divisor != 1.0:
        divide(total, divisor)
    return total if factor == 1.0 else total.mul_(factor)


def scale(
    omegas: Float[Tensor, "vectors"], *, normalize: bool, lambda_: float
) -> tuple[Tensor | float, float]:
    """Returns what the weighted sum is divided by, and what it is multiplied by after that."""
    return omegas.sum() if normalize else 1.0, lambda_


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Refuses to divide by ω that sum to 0. mergekit silently divides by 1 instead."""
    if arguments["normalize"] and cancel(omegas):
        return "the ω sum to 0, and it divides by their sum. Change one, or set normalize: false."
    return None
