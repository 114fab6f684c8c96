"""NearSwap: move towards the model where it is near the base, by at most t per entry."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Range, Site

PAPER = "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
FORMULA = "Θ + min(1, t / |Δ|) · Δ"
SPACE = "deltas"
SCOPE = "element"
VECTORS = (1, 1)
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    t: Annotated[float, Range(0.0, 10.0), "the largest change of an entry"],
) -> Float[Tensor, "*shape"]:
    """[0.5, −3] at t = 1 becomes [0.5, −1]."""
    delta = stack[0]
    return delta.mul_((t / delta.abs().clamp(min=1e-6)).clamp(max=1.0))
