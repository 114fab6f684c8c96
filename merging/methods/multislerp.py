"""Multi-SLERP: average directions on the sphere, in the plane that touches it at their mean."""

from collections.abc import Mapping
from math import pi
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from merging.errors import MergingError
from merging.methods import _span
from merging.methods._chunks import in_blocks as in_blocks
from merging.methods._sums import cancel
from merging.methods._survey import angles
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
        float, Range(0.0, 1.0), "below this length the weighted directions have no mean"
    ] = 1e-8,
) -> Float[Tensor, "*shape"]:
    """Moves from the mean direction along the weighted sum of the tangents to the models.

    For [2, 0] and [0, 2] at equal ω, m = [√½, √½], the tangents cancel, and the result is 2·m.

    Raises:
        MergingError: the weighted directions cancel, so that there is no mean direction.
    """
    shares = factors(stack, omegas, site, normalize_weights=normalize_weights, eps=eps)
    return _span.sum_in_float64(stack.flatten(1)[:, None], shares[:, None]).view(stack.shape[1:])


def factors(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    normalize_weights: bool,
    eps: float,
) -> Float[Tensor, "vectors"]:
    """Returns the factor of each vector, for a whole tensor or a block of it.

    Raises:
        MergingError: see `combine`.
    """
    if len(stack) == 1:
        return torch.ones(1, dtype=torch.float64)
    weights = omegas.double()
    if normalize_weights:
        weights = weights / weights.sum()
    found = angles(stack, site)
    lengths = found.lengths
    # A bare 1e-8 would take what rounding leaves of directions that cancel for a direction.
    least = max(eps, _span.ROUNDING * float(weights.abs().sum()))
    units = _span.coordinates(found.cosines)
    if torch.linalg.vector_norm(weights @ units) < least:
        # Two opposite models are added, as mergekit does. A frozen tensor has deltas of zeros only.
        if len(stack) > 2 and lengths.any():
            raise MergingError(
                f"multislerp at {site.name}: the weighted directions of the models cancel, so they "
                "have no mean. Change an ω."
            )
        return weights
    shares = _mean(units, weights)
    if shares.abs().sum() > _span.CANCELLING:
        shares = _mean(_span.exact_coordinates(stack, site, lengths), weights)
    # mergekit adds eps to each length, and moves a tensor that is shorter than eps elsewhere.
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    return shares * (weights @ lengths) * inverse


def _mean(units: Float[Tensor, "n axes"], weights: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Returns the point that the tangents lead to, as coefficients of the unit vectors.

    Args:
        units: the unit vectors by their coordinates; their weighted sum is not 0.
        weights: the ω.
    """
    shares = weights / torch.linalg.vector_norm(weights @ units)
    tangent = weights - (weights @ (units @ (shares @ units))) * shares
    angle = torch.linalg.vector_norm(tangent @ units)
    result: Tensor = shares * torch.cos(angle) + tangent * torch.sinc(angle / pi)
    return result


def refusal(omegas: tuple[float, ...], arguments: Mapping[str, Any]) -> str | None:
    """Refuses to divide by ω that sum to 0."""
    if arguments["normalize_weights"] and len(omegas) > 1 and cancel(omegas):
        return (
            "the ω sum to 0, and it divides by their sum. "
            "Change one, or set normalize_weights: false."
        )
    return None
