"""What several methods do to deltas before they are added: keep some entries, rescale the rest, elect signs.

Everything works in place on one delta, or on a stack of them, in the working dtype; besides it, at most one more copy
of one delta is held, and masks of a byte per element.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merging.methods._contract import PerVector, Range

Density = Annotated[
    PerVector, Range(0.0, 1.0), "the share of the entries of each delta that is kept"
]


Gamma = Annotated[
    PerVector, Range(0.0, 1.0), "the share of the largest entries that is left out as outliers"
]


Epsilon = Annotated[
    PerVector, Range(0.0, 0.5), "how far the keep-probability goes below and above the density"
]


Lambda = Annotated[float, Range(-10.0, 10.0), "a factor on the whole sum"]


NormalizeSum = Annotated[bool, "divide by the sum of the ω"]


NormalizeAgreeing = Annotated[bool, "divide each entry by what agrees there, see divide_by"]


RescaleL1 = Annotated[bool, "scale what is kept to the delta's sum of magnitudes before"]


RescaleDropped = Annotated[bool, "make up for the dropped entries, see rescale_by"]


RescaleBy = Annotated[
    Literal["l1", "density"],
    "match the sum of magnitudes, as mergekit; or divide by the density, as the paper of DARE",
]


Elect = Annotated[
    Literal["weighted", "unweighted"],
    "signs by the sum of ωᵢΔᵢ, as mergekit; or of Δᵢ, as the paper of TIES",
]


DivideBy = Annotated[
    Literal["weight", "count"],
    "the sum of the agreeing ω, as mergekit; or their number, as the paper of TIES",
]


CHUNK = 2**18
"""Elements worked on at once: what is drawn or compared stays in the cache, and no second delta is held."""


SMALL = 1e-7
"""mergekit's tolerance: a delta whose magnitudes sum to less is not scaled up."""


def keep_largest(delta: Float[Tensor, "*shape"], density: float) -> None:
    """Zeros all but the ⌊density·n⌋ entries of largest magnitude, at least one: TIES' trimming (arXiv 2306.01708).

    Of [4, −1, 3, −2] at density 0.5 remain [4, 0, 3, 0].
    """
    count = max(1, int(density * delta.numel())) if density > 0 else 0
    keep_ranks(delta, delta.numel() - count, delta.numel() if density < 1 else None)


def keep_below_outliers(delta: Float[Tensor, "*shape"], density: float, gamma: float) -> None:
    """Zeros the ⌊gamma·n⌋ largest entries and the smallest, so that ⌊density·n⌋ are kept (Breadcrumbs, 2312.06795).

    Fewer outliers are left out where that is needed to keep the density. Of [4, −1, 3, −2] at density 0.5 and gamma
    0.25 remain [0, 0, 3, −2].
    """
    count, outliers = int(density * delta.numel()), int(gamma * delta.numel())
    start = max(0, delta.numel() - count - outliers)
    keep_ranks(delta, start, start + count if density < 1 else None)


def keep_ranks(delta: Float[Tensor, "*shape"], start: int, stop: int | None) -> None:
    """Zeros all entries but those from place `start` to before `stop` in order of rising magnitude; None keeps all.

    Entries of equal magnitude stand in the order of their positions, so that exactly stop − start are kept.
    """
    if stop is None:
        return
    flat = delta.view(-1)
    if stop <= start:
        flat.zero_()
        return
    window = ranked(flat.abs(), start, stop)
    for part, kept in zip(
        chunks(flat), window.masks(part.abs() for part in chunks(flat)), strict=True
    ):
        part.masked_fill_(~kept, 0.0)


class Window(NamedTuple):
    """The places `start` to before `stop` among sizes in rising order, as values and counts."""

    start: int
    stop: int
    low: float
    high: float
    below_low: int
    below_high: int

    def masks(self, sizes: Iterable[Float[Tensor, "n"]]) -> Iterator[Bool[Tensor, "n"]]:
        """Which entries stand in the window, for the sizes chunk by chunk, in their order."""
        seen_low, seen_high = self.below_low, self.below_high
        for size in sizes:
            at_low, at_high = size == self.low, size == self.high
            # places among the equals, counted over the chunks before
            rank_low, rank_high = (
                at_low.cumsum(0) + (seen_low - 1),
                at_high.cumsum(0) + (seen_high - 1),
            )
            above = (size > self.low) | (at_low & (rank_low >= self.start))
            yield above & ((size < self.high) | (at_high & (rank_high < self.stop)))
            seen_low += int(at_low.sum())
            seen_high += int(at_high.sum())


def ranked(sizes: Float[Tensor, "n"], start: int, stop: int) -> Window:
    """The window of the places `start` to before `stop`, at least one. The sizes are left in another order."""
    ordered = sizes.numpy()
    ordered.partition(
        sorted({start, stop - 1})
    )  # in place: no indices, which would take twice the memory
    low, high = float(ordered[start]), float(ordered[stop - 1])
    below_low = sum(int((part < low).sum()) for part in chunks(sizes))
    below_high = sum(int((part < high).sum()) for part in chunks(sizes))
    return Window(start, stop, low, high, below_low, below_high)


def drop_at_random(delta: Float[Tensor, "*shape"], density: float, seed: int) -> None:
    """Zeros each entry with probability 1 − density, by a mask that depends on the seed alone (DARE, 2311.03099)."""
    if density >= 1:
        return
    for part, drawn in _draws(delta.view(-1), seed):
        part.masked_fill_(drawn >= density, 0.0)


def drop_by_rank(delta: Float[Tensor, "*shape"], density: float, epsilon: float, seed: int) -> None:
    """Zeros entries at random, in each row the more likely the smaller they are (DELLA, 2406.11617).

    The keep-probability rises with the rank of the magnitude from density − epsilon to density + epsilon. A row of one
    entry is kept with probability density.
    """
    if density >= 1:
        return
    if density <= 0:
        delta.zero_()
        return
    rows = delta.view(1, -1) if delta.dim() < 2 else delta.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    height = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), height):
        part = rows[start : start + height]
        ranks = part.abs().argsort(dim=1, stable=True).argsort(dim=1)
        share = ranks / (rows.shape[1] - 1) if rows.shape[1] > 1 else torch.full_like(part, 0.5)
        drawn = torch.rand(part.shape, generator=generator)
        part.masked_fill_(drawn >= (density - epsilon) + 2 * epsilon * share, 0.0)


def _draws(flat: Float[Tensor, "n"], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The chunks of a flat tensor, each with as many uniform numbers from [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    for part in chunks(flat):
        yield part, torch.rand(part.shape, generator=generator)


def chunks(values: Float[Tensor, "*rows n"]) -> Iterator[Float[Tensor, "*rows m"]]:
    """Views of CHUNK elements along the last axis, in order."""
    for start in range(0, values.shape[-1], CHUNK):
        yield values[..., start : start + CHUNK]


def total_magnitude(delta: Float[Tensor, "*shape"]) -> float:
    """Σ|δ|, summed in float64."""
    return float(sum(part.abs().sum(dtype=torch.float64) for part in chunks(delta.view(-1))))


def scale_to(delta: Float[Tensor, "*shape"], magnitude: float) -> None:
    """Scales a delta to a sum of magnitudes, where neither that nor its own is next to nothing."""
    if magnitude >= SMALL and (own := total_magnitude(delta)) >= SMALL:
        delta.mul_(magnitude / own)


def thin(
    delta: Float[Tensor, "*shape"], density: float, rescale_by: str, drop: Callable[[Tensor], None]
) -> None:
    """Drops entries and makes up for them: 'l1', 'density' or 'none'; see RescaleBy.

    Args:
        delta: changed in place.
        density: the share that `drop` keeps.
        rescale_by: how.
        drop: zeros entries in place.
    """
    before = total_magnitude(delta) if rescale_by == "l1" and density < 1 else 0.0
    drop(delta)
    scale_to(delta, before)
    if rescale_by == "density" and density > 0:
        delta.div_(density)


def agreed(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    *,
    normalize: bool,
    elect: str,
    divide_by: str,
    lambda_: float = 1.0,
) -> Float[Tensor, "*shape"]:
    """Elects a sign for each entry and adds the ωᵢΔᵢ that have it, times λ (TIES, arXiv 2306.01708); a tie elects +.

    Of 3 and −2 at equal ω, + is elected and 3 is kept; with ω 0.2 and 0.8, 0.6 against −1.6, − is elected by weight.
    """
    flat = stack.flatten(1)
    columns = omegas[:, None]
    for part in chunks(flat):
        weighted = part * columns
        votes = weighted if elect == "weighted" else part
        agrees = votes.sign() == majority(votes)
        total = (weighted * agrees).sum(0)
        if normalize:
            divisor = (
                (columns * agrees).sum(0)
                if divide_by == "weight"
                else agrees.sum(0).to(total.dtype)
            )
            total /= divisor.masked_fill_(divisor == 0, 1.0)
        part[0] = total if lambda_ == 1.0 else total.mul_(lambda_)
    return stack[0]


def majority(votes: Float[Tensor, "vectors n"]) -> Float[Tensor, "n"]:
    """+1 or −1 for each entry."""
    return (votes.sum(0) >= 0).to(votes.dtype) * 2 - 1


def is_matrix(delta: Float[Tensor, "*shape"]) -> bool:
    """Whether a delta has singular vectors to speak of."""
    return delta.dim() == 2 and min(delta.shape) > 1


def summed(
    stack: Float[Tensor, "vectors *shape"], omegas: Float[Tensor, "vectors"]
) -> Float[Tensor, "*shape"]:
    """Σ ωᵢ xᵢ in place: the sum takes the first vector's memory."""
    for part in chunks(stack.flatten(1)):
        weighted_sum(part, omegas)
    return stack[0]


def mean_of(
    stack: Float[Tensor, "vectors *shape"], omegas: Float[Tensor, "vectors"]
) -> Float[Tensor, "*shape"]:
    """Σ ωᵢΔᵢ / n: what methods of singular vectors do with what has none."""
    return divided(summed(stack, omegas), float(len(stack)))


def gram(stack: Float[Tensor, "vectors *shape"]) -> Float[Tensor, "vectors vectors"]:
    """⟨xᵢ, xⱼ⟩ in float64. Whatever stays in the span of the vectors can be computed from it, without another copy."""
    total = torch.zeros(len(stack), len(stack), dtype=torch.float64)
    for part in chunks(stack.flatten(1)):
        wide = part.double()
        total += wide @ wide.T
    return total


def orthogonal_factor(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """The nearest matrix with orthonormal columns (or rows): U·Vᵀ of its SVD, the solution of Procrustes' problem."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    product: Tensor = left @ right
    return product


def divided(total: Float[Tensor, "*shape"], divisor: Tensor | float) -> Float[Tensor, "*shape"]:
    """The quotient, in place, rounded once on any device.

    CUDA multiplies by the reciprocal of a divisor that is on the processor (torch 2.13, BinaryDivTrueKernel.cu), which
    rounds twice. So the divisor goes to where the values are.
    """
    return total.div_(torch.as_tensor(divisor, dtype=total.dtype, device=total.device))


def weighted_sum(
    stack: Float[Tensor, "vectors *shape"], omegas: Float[Tensor, "vectors"], *, keep: bool = False
) -> Float[Tensor, "*shape"]:
    """Σ ω_i x_i, each product and each sum rounded by itself; the stack is used up, unless it is to be kept.

    A fused multiply-add would round once where this rounds twice, and torch uses it in the vectorised body of an
    operation but not in its remainder: the bits of a result would then depend on block size and thread count.
    """
    total = torch.mul(stack[0], omegas[0], out=None if keep else stack[0])
    product = torch.empty_like(total) if keep else None
    for values, omega in zip(stack[1:], omegas[1:], strict=True):
        total.add_(torch.mul(values, omega, out=product if keep else values))
    return total
