"""NearSwap: move each entry towards the model by at most t, so that near entries are swapped."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from merging.methods._values import Range, Site

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
    """Limits every entry of the delta to the range −t to t; needs one model.

    [0.5, −3] at t = 1 becomes [0.5, −1].
    """
    # min(1, t / |δ|) · δ without a division by the 0 of an entry that equals the base's.
    return stack[0].clamp_(-t, t)
