"""NuSLERP: spherical interpolation between two models, or between their deltas from a base."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._values import Site

PAPER = "https://dl.acm.org/doi/10.1145/325165.325242"
FORMULA = "slerp(Θ₁, Θ₂; t), or with a base Θ + slerp(Δ₁, Δ₂; t), where t = ω₂ / (ω₁ + ω₂)"
SPACE = "either"
SCOPE = "tensor"
VECTORS = (2, 2)


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    nuslerp_flatten: Annotated[
        bool,
        "treat each tensor as one vector; if false, interpolate row by row or column by column",
    ] = True,
    nuslerp_row_wise: Annotated[
        bool, "with nuslerp_flatten false: interpolate along the first axis instead of the last"
    ] = False,
) -> Float[Tensor, "*shape"]:
    """Interpolates on the arc between two vectors: SLERP (Shoemake 1985), with t from the ω.

    Halfway between [2, 0] and [0, 2], at equal ω, is [√2, √2]: the coefficients apply to the
    vectors as they are, so lengths are interpolated with the direction.
    """
    total = omegas.sum()
    # As in mergekit: ω that cancel have no shares, so both models count half.
    t = 0.5 if total.abs() < 1e-6 else float(omegas[1] / total)
    first, second = stack.flatten(1) if nuslerp_flatten else stack
    axis = 0 if nuslerp_row_wise and not nuslerp_flatten else -1
    lengths = _length(first, axis) * _length(second, axis)
    cosine = ((first * second).sum(axis, keepdim=True) / lengths).clamp(-1, 1)
    # Parallel vectors have no arc, and sin(angle) would divide by 0: interpolate in a line.
    line = 1 - cosine.square() <= 1e-16
    angle = torch.acos(torch.where(line, 0.0, cosine))
    sine = torch.sin(angle)
    near = torch.where(line, 1 - t, torch.sin((1 - t) * angle) / sine)
    far = torch.where(line, t, torch.sin(t * angle) / sine)
    result: Tensor = first.mul_(near).add_(second.mul_(far))
    return result.view(stack.shape[1:])


def _length(values: Float[Tensor, "*shape"], axis: int) -> Float[Tensor, "*rows"]:
    """Returns lengths along an axis, at least 1e-7 so that they can be divided by."""
    length: Tensor = torch.linalg.vector_norm(values, dim=axis, keepdim=True)
    return length.clamp(min=1e-7)
