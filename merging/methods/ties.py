"""TIES: trim the small entries of each delta, elect a sign per entry, add the deltas that agree."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from merging.methods import _chunks
from merging.methods._edits import Ranks, keep_largest, keep_windows, largest, thin
from merging.methods._parameters import (
    Density,
    DivideBy,
    Elect,
    Lambda,
    NormalizeAgreeing,
    RescaleL1,
)
from merging.methods._sums import sum_agreeing
from merging.methods._values import Site

PAPER = "https://arxiv.org/abs/2306.01708"
FORMULA = (
    "Θ + λ · Σ ωᵢ Δᵢ / Σ ωᵢ, each Δᵢ trimmed to its largest entries, "
    "summed over those that have the elected sign"
)
SPACE = "deltas"
SCOPE = "tensor"


def in_blocks(shape: Sequence[int], depth: float | None, arguments: Mapping[str, Any]) -> bool:
    """Whether a tensor is computed in blocks: a large one, unless magnitudes are summed up."""
    return _chunks.in_blocks(shape, depth, arguments) and not arguments["rescale"]


def ranks(size: int, arguments: Mapping[str, Any]) -> tuple[Ranks | None, ...]:
    """Returns the ranks that each vector keeps of so many entries."""
    return tuple(largest(size, share) for share in arguments["density"])


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    normalize: NormalizeAgreeing = True,
    rescale: RescaleL1 = False,
    lambda_: Lambda = 1.0,
    elect: Elect = "weighted",
    divide_by: DivideBy = "weight",
) -> Float[Tensor, "*shape"]:
    """Trims, elects signs and adds what agrees: TIES-Merging (arXiv 2306.01708).

    [1, 5, 3, 4] and [0, 1, 2, −6], both trimmed to half, become [0, 5, 0, 4] and [0, 0, 2, −6].
    At equal ω the last entry elects −, and the result is [0, 5, 2, −6].

    The defaults are mergekit's. The paper uses density 0.2, elect "unweighted" and
    divide_by "count".
    """
    # One threshold for each tensor, as in mergekit and PEFT; MergeLM takes one over the model.
    if site.windows:
        keep_windows(stack, site.windows)
    else:
        for delta, share in zip(stack, density, strict=True):
            thin(delta, share, rescale, partial(keep_largest, density=share))
    return sum_agreeing(
        stack, omegas, normalize=normalize, elect=elect, divide_by=divide_by, lambda_=lambda_
    )
