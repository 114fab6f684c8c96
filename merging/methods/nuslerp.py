"""NuSLERP: spherical interpolation between two models, or between their deltas where there is a base."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site

PAPER = "https://dl.acm.org/doi/10.1145/325165.325242"
FORMULA = "slerp(Θ₁, Θ₂; t), or Θ + slerp(Δ₁, Δ₂; t) with a base, t = ω₂ / (ω₁ + ω₂)"
SPACE = "either"
SCOPE = "tensor"
VECTORS = (2, 2)


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    nuslerp_flatten: Annotated[
        bool, "each tensor as one vector; else row by row or column by column"
    ] = True,
    nuslerp_row_wise: Annotated[
        bool, "where not flattened: along the first axis instead of the last"
    ] = False,
) -> Float[Tensor, "*shape"]:
    """Between [2, 0] and [0, 2] at equal ω lies [√2, √2]; lengths are interpolated with the direction."""
    total = omegas.sum()
    t = 0.5 if total.abs() < 1e-6 else float(omegas[1] / total)
    one, other = stack.flatten(1) if nuslerp_flatten else stack
    axis = 0 if nuslerp_row_wise and not nuslerp_flatten else -1
    lengths = _length(one, axis) * _length(other, axis)
    cosine = ((one * other).sum(axis, keepdim=True) / lengths).clamp(-1, 1)
    line = 1 - cosine.square() <= 1e-16
    angle = torch.acos(torch.where(line, 0.0, cosine))
    sine = torch.sin(angle)
    near = torch.where(line, 1 - t, torch.sin((1 - t) * angle) / sine)
    far = torch.where(line, t, torch.sin(t * angle) / sine)
    result: Tensor = one.mul_(near).add_(other.mul_(far))
    return result.view(stack.shape[1:])


def _length(values: Float[Tensor, "*shape"], axis: int) -> Float[Tensor, "*rows"]:
    length: Tensor = torch.linalg.vector_norm(values, dim=axis, keepdim=True)
    return length.clamp(min=1e-7)
