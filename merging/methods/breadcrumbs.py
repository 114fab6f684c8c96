"""Model Breadcrumbs: drop each delta's smallest entries and largest outliers, add the deltas."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from merging.methods._edits import Ranks, below_outliers, keep_below_outliers, keep_windows, thin
from merging.methods._parameters import Density, Gamma, Lambda, NormalizeSum, RescaleL1
from merging.methods._sums import sum_in_chunks
from merging.methods._values import Site
from merging.methods.task_arithmetic import refusal as refusal
from merging.methods.ties import in_blocks as in_blocks

PAPER = "https://arxiv.org/abs/2312.06795"
FORMULA = "Θ + λ · Σ ωᵢ Δᵢ, each Δᵢ without its smallest entries and its largest outliers"
SPACE = "deltas"
SCOPE = "tensor"


def ranks(size: int, arguments: Mapping[str, Any]) -> tuple[Ranks | None, ...]:
    """Returns the ranks that each vector keeps of so many entries."""
    pairs = zip(arguments["density"], arguments["gamma"], strict=True)
    return tuple(below_outliers(size, share, outliers) for share, outliers in pairs)


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    gamma: Gamma = (0.01,),
    normalize: NormalizeSum = False,
    rescale: RescaleL1 = False,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Trims each delta at both ends of its magnitudes, then adds: Breadcrumbs (arXiv 2312.06795).

    [4, −1, 3, −2] at density 0.5 and gamma 0.25 becomes [0, 0, 3, −2].
    """
    trim(stack, density, gamma, rescale, site)
    # λ and the divisor are folded into the ω: a few numbers, and no more passes over the tensor.
    return sum_in_chunks(stack, omegas * (lambda_ / omegas.sum() if normalize else lambda_))


def trim(
    stack: Float[Tensor, "vectors *shape"],
    density: tuple[float, ...],
    gamma: tuple[float, ...],
    rescale: bool,
    site: Site,
) -> None:
    """Drops the smallest entries and the outliers of each delta, in place.

    Args:
        stack: the deltas.
        density: per delta, the share of entries that is kept.
        gamma: per delta, the share of entries that counts as outliers.
        rescale: scale what is kept back to the delta's sum of magnitudes.
        site: has what is kept, if the deltas are blocks.
    """
    if site.windows:
        keep_windows(stack, site.windows)
        return
    for delta, share, outliers in zip(stack, density, gamma, strict=True):
        drop = partial(keep_below_outliers, density=share, gamma=outliers)
        thin(delta, share, rescale, drop)
