"""SLERP: spherical interpolation between the base and one model, each tensor as one vector."""

from math import acos, sin
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods import _span
from merging.methods._chunks import chunks
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
    near, far = _shares(_cosine(base, tuned), t)
    for part, origin in zip(chunks(tuned), chunks(base), strict=True):
        part.mul_(far).add_(origin * near)
    return stack[0]


def _shares(cosine: float, t: float) -> tuple[float, float]:
    """Returns the coefficients of base and model."""
    if abs(cosine) > ALIGNED:
        return 1 - t, t
    angle = acos(cosine)
    return sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)


def _cosine(first: Float[Tensor, "n"], second: Float[Tensor, "n"]) -> float:
    """Returns the cosine of the angle between two vectors, summed in float64; 0 if one is zero."""
    lengths = [_span.length(chunks(vector)) or 1.0 for vector in (first, second)]
    # float32 sums over millions of products would lose the digits that acos needs near 1. Each is
    # divided by its length first, because the products themselves may not be in range.
    pairs = zip(chunks(first), chunks(second), strict=True)
    total = sum(float((a.double() / lengths[0]) @ (b.double() / lengths[1])) for a, b in pairs)
    return min(1.0, max(-1.0, total))
