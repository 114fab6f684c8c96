"""SLERP: spherical interpolation between the base and one model, each tensor as one vector."""

from math import acos, sin
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._chunks import chunks
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


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    t: Annotated[float, Range(0.0, 1.0), "how far from the base (0) to the model (1)"],
) -> Float[Tensor, "*shape"]:
    """Interpolates on the arc from the base to the model: SLERP (Shoemake 1985).

    Between [1, 0] and [0, 1], t = 0.5 gives [√½, √½].
    """
    tuned, base = stack[0].reshape(-1), site.base.reshape(-1)
    near, far = _shares(float(angles(stack, site, base=True).cosines[0, 1]), t)
    for part, origin in zip(chunks(tuned), chunks(base), strict=True):
        part.mul_(far).add_(origin * near)
    return stack[0]


def _shares(cosine: float, t: float) -> tuple[float, float]:
    """Returns the coefficients of base and model."""
    if abs(cosine) > ALIGNED:
        return 1 - t, t
    angle = acos(cosine)
    return sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)
