"""Multi-SLERP: average directions on the sphere, in the plane that touches it at their mean."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from merging.errors import MergingError
from merging.methods._sums import gram, sum_in_chunks
from merging.methods._values import Range, Site

PAPER = "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
FORMULA = (
    "Σ ωᵢ ‖xᵢ‖ · exp_m(Σ ωᵢ tangent_m(xᵢ / ‖xᵢ‖)), m is the weighted mean direction, "
    "tangent_m(u) = u − ⟨u, m⟩ m; xᵢ are the Θᵢ, or with a base the Δᵢ (the result is added to Θ)"
)
SPACE = "either"
SCOPE = "tensor"


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    normalize_weights: Annotated[bool, "divide the ω by their sum"] = True,
    eps: Annotated[
        float, Range(0.0, 1.0), "a small number that is added to lengths before dividing by them"
    ] = 1e-8,
) -> Float[Tensor, "*shape"]:
    """Moves from the mean direction along the weighted sum of the tangents to the models.

    For [2, 0] and [0, 2] at equal ω, m = [√½, √½], the tangents cancel, and the result is 2·m.

    Raises:
        MergingError: the weighted directions cancel, so that there is no mean direction.
    """
    if len(stack) == 1:
        return stack[0]
    if normalize_weights:
        omegas = omegas / omegas.sum()
    products = gram(stack)
    weights, norms = omegas.double(), products.diagonal().sqrt()
    # All vectors below lie in the span of the unit vectors uᵢ = units[i]·xᵢ. Each is held as its
    # coefficients, so that no further tensor of a model's size is needed.
    units = 1 / (norms + eps)
    products = products * units[:, None] * units
    length = (weights @ products @ weights).clamp(min=0).sqrt()
    if length < eps:
        # Two opposite models are added, as mergekit does. A frozen tensor has deltas of zeros only.
        if len(stack) == 2 or not norms.any():
            return sum_in_chunks(stack, omegas)
        raise MergingError(
            f"multislerp at {site.name}: the weighted directions of the models cancel, so they "
            "have no mean. Change an ω."
        )
    mean = weights / length
    tangent = weights - (weights @ (products @ mean)) * mean
    angle = (tangent @ products @ tangent).clamp(min=0).sqrt() + eps
    result = mean * torch.cos(angle) + tangent * (torch.sin(angle) / angle)
    return sum_in_chunks(stack, (result * units * (weights @ norms)).to(stack.dtype))


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Refuses to divide by ω that sum to 0."""
    if arguments["normalize_weights"] and len(omegas) > 1 and abs(sum(omegas)) < 1e-8:
        return (
            "the ω sum to 0, and it divides by their sum. "
            "Change one, or set normalize_weights: false."
        )
    return None
