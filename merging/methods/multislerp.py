"""Multi-SLERP: the weighted mean of several directions on a sphere, taken in the plane that touches it at their mean."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from merging.errors import MergingError
from merging.methods._contract import Range, Site
from merging.methods._edits import gram, summed

PAPER = "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
FORMULA = "Σ ωᵢ ‖xᵢ‖ · exp_m(Σ ωᵢ log-like_m(xᵢ / ‖xᵢ‖)), m the mean direction; x are the Θᵢ, or the Δᵢ with a base"
SPACE = "either"
SCOPE = "tensor"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    normalize_weights: Annotated[bool, "divide the ω by their sum"] = True,
    eps: Annotated[float, Range(0.0, 1.0), "added to lengths that are divided by"] = 1e-8,
) -> Float[Tensor, "*shape"]:
    """[2, 0] and [0, 2] at equal ω: m = [√½, √½], the tangents cancel, and the result is 2·m.

    Raises:
        MergingError: when the directions cancel, so that there is no mean.
    """
    if len(stack) == 1:
        return stack[0]
    if normalize_weights:
        omegas = omegas / omegas.sum()
    products = gram(stack)
    weights, norms = omegas.double(), products.diagonal().sqrt()
    units = 1 / (
        norms + eps
    )  # uᵢ = units[i]·xᵢ; every vector below is a row of coefficients of the xᵢ
    products = products * units[:, None] * units
    length = (weights @ products @ weights).clamp(min=0).sqrt()
    if length < eps:
        if (
            len(stack) == 2 or not norms.any()
        ):  # of two, as mergekit; deltas of a frozen tensor are all zero
            return summed(stack, omegas)
        raise MergingError(
            f"multislerp at {site.name}: the weighted directions of the models cancel, so they have no mean. Change an ω."
        )
    mean = weights / length
    tangent = weights - (weights @ (products @ mean)) * mean
    angle = (tangent @ products @ tangent).clamp(min=0).sqrt() + eps
    result = mean * torch.cos(angle) + tangent * (torch.sin(angle) / angle)
    return summed(stack, (result * units * (weights @ norms)).to(stack.dtype))


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """ω that sum to 0 where they are divided by."""
    if arguments["normalize_weights"] and len(omegas) > 1 and abs(sum(omegas)) < 1e-8:
        return "the ω sum to 0, and it divides by their sum. Change one, or set normalize_weights: false."
    return None
