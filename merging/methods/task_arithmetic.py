"""Task arithmetic with one ω per vector: Θ + λ·Σ ω_i Δ_i. This is DEM, and the default."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from merging.method import Range, Site

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


def scale(omegas: Float[Tensor, "vectors"], *, normalize: bool, lambda_: float) -> tuple[Tensor | float, float]:
    """What the weighted sum is divided by, and what it is multiplied by then."""
    return omegas.sum() if normalize else 1.0, lambda_


def divided(total: Float[Tensor, "*shape"], divisor: Tensor | float) -> Float[Tensor, "*shape"]:
    """The quotient, in place, rounded once on any device.

    CUDA multiplies by the reciprocal of a divisor that is on the processor (torch 2.13, BinaryDivTrueKernel.cu), which
    rounds twice. So the divisor goes to where the values are.
    """
    return total.div_(torch.as_tensor(divisor, dtype=total.dtype, device=total.device))


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """A sum of ω that is 0 cannot be divided by; mergekit divides by 1 there, without a word."""
    if arguments["normalize"] and abs(sum(omegas)) < 1e-8:
        return "the ω sum to 0, and it divides by their sum. Change one, or set normalize: false."
    return None


def weighted_sum(
    stack: Float[Tensor, "vectors *shape"], omegas: Float[Tensor, "vectors"], *, keep: bool = False
) -> Float[Tensor, "*shape"]:
    """Σ ω_i x_i, each product and each sum rounded by itself; the stack is used up, unless it is to be kept.

    A fused multiply-add would round once where this rounds twice, and torch uses it in the vectorised body of an
    operation but not in its remainder: the bits of a result would then depend on block size and thread count.
    """
    total = torch.mul(stack[0], omegas[0], out=None if keep else stack[0])
    product = torch.empty_like(total) if keep else None
    for values, omega in zip(stack[1:], omegas[1:], strict=True):
        total.add_(torch.mul(values, omega, out=product if keep else values))
    return total
