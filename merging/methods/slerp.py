"""Spherical interpolation between the base and one model, each tensor as one vector."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site
from merging.methods._edits import chunks

PAPER = "https://dl.acm.org/doi/10.1145/325165.325242"
FORMULA = "sin((1−t)φ) / sin φ · Θ + sin(tφ) / sin φ · Θ₁, φ the angle between them"
SPACE = "weights"
BASE = "operand"
SCOPE = "tensor"
VECTORS = (1, 1)
WEIGHTED = False

ALIGNED = 0.9995
"""Above this cosine the arc is a line, and sin φ too small to divide by; mergekit's threshold."""


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    t: Annotated[float, Range(0.0, 1.0), "how far from the base (0) to the model (1)"],
) -> Float[Tensor, "*shape"]:
    """Between [1, 0] and [0, 1] at t = 0.5 lies [√½, √½]."""
    tuned, base = stack[0].reshape(-1), site.base.reshape(-1)
    near, far = _shares(_cosine(base, tuned), t)
    for part, origin in zip(chunks(tuned), chunks(base), strict=True):
        part.mul_(far).add_(origin * near)
    return stack[0]


def _shares(cosine: Float[Tensor, ""], t: float) -> tuple[float, float]:
    """The coefficients of base and model."""
    if cosine.abs() > ALIGNED:
        return 1 - t, t
    angle = torch.acos(cosine)
    near, far = (float(torch.sin(share * angle) / torch.sin(angle)) for share in (1 - t, t))
    return near, far


def _cosine(one: Float[Tensor, "n"], other: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Of the angle between them, from sums in float64; 0 where one is next to nothing."""
    sums = torch.zeros(3, dtype=torch.float64)
    for a, b in zip(chunks(one), chunks(other), strict=True):
        a, b = a.double(), b.double()
        sums += torch.stack([a @ b, a @ a, b @ b])
    lengths = sums[1:].sqrt()
    lengths = torch.where(lengths > 1e-8, lengths, 1.0)
    cosine: Tensor = sums[0] / lengths[0] / lengths[1]
    return cosine.clamp(-1, 1)
