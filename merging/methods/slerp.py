"""SLERP: spherical interpolation between the base and one model, each tensor as one vector."""

from math import acos, sin
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods import _span
from merging.methods._chunks import in_blocks as in_blocks
from merging.methods._survey import angles
from merging.methods._values import Range, Site

PAPER = "https://dl.acm.org/doi/10.1145/325165.325242"
FORMULA = "sin((1−t)φ) / sin φ · Θ + sin(tφ) / sin φ · Θ₁, φ is the angle between Θ and Θ₁"
SPACE = "weights"
BASE = "operand"
SCOPE = "tensor"
VECTORS = (1, 1)
WEIGHTED = False

ALIGNED = 0.9995
"""Above this |cosine| the interpolation is linear, because sin φ is too small to divide by.

It is mergekit's threshold.
"""


Share = Annotated[float, Range(0.0, 1.0), "how far from the base (0) to the model (1)"]


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    t: Share,
) -> Float[Tensor, "*shape"]:
    """Interpolates on the arc from the base to the model: SLERP (Shoemake 1985).

    Between [1, 0] and [0, 1], t = 0.5 gives [√½, √½].
    """
    rows = torch.stack([site.base, stack[0]]).view(2, 1, -1)
    shares = factors(stack, omegas, site, t=t)
    return _span.sum_in_float64(rows, shares[:, None]).view(stack.shape[1:])


def factors(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    t: Share,
) -> Float[Tensor, "2"]:
    """Returns the factors of base and model, for a whole tensor or a block of it."""
    cosine = float(angles(stack, site, base=True).cosines[0, 1])
    return torch.tensor(_shares(cosine, t), dtype=torch.float64)


def _shares(cosine: float, t: float) -> tuple[float, float]:
    """Returns the coefficients of base and model."""
    if abs(cosine) > ALIGNED:
        return 1 - t, t
    angle = acos(cosine)
    return sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)
