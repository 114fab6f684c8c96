"""What several methods do with a whole stack: weighted sums, sign election.

A sum overwrites the stack, or its first vector, and holds no copy of a delta besides it.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merging.methods import _loops
from merging.methods._chunks import chunks

CANCELLED = 1e-6
"""ω whose sum is no larger than this share of the sum of their magnitudes count as summing to 0.

They are rounded to float32, so such a sum has an error of several percent.
"""


def weighted_sum(
    stack: Float[Tensor, "vectors *shape"], omegas: Float[Tensor, "vectors"], *, keep: bool = False
) -> Float[Tensor, "*shape"]:
    """Returns Σ ωᵢ xᵢ. Every product and every sum is rounded by itself.

    A fused multiply-add would round once where this rounds twice, and torch uses it in the
    vectorised body of an operation but not in its remainder: the bits of a result would then
    depend on block size and thread count.

    Args:
        stack: overwritten, unless `keep` is set.
        omegas: one per vector.
        keep: leave the stack as it is, at the cost of two more tensors of one vector's size.
    """
    total = torch.mul(stack[0], omegas[0], out=None if keep else stack[0])
    product = torch.empty_like(total) if keep else None
    for values, omega in zip(stack[1:], omegas[1:], strict=True):
        total.add_(torch.mul(values, omega, out=product if keep else values))
    return total


def sum_in_chunks(
    stack: Float[Tensor, "vectors *shape"], omegas: Float[Tensor, "vectors"]
) -> Float[Tensor, "*shape"]:
    """Returns Σ ωᵢ xᵢ in the memory of the first vector; the stack is used up."""
    # flatten gives a view, so the sum of each chunk lands in the stack's first vector.
    for part in chunks(stack.flatten(1)):
        weighted_sum(part, omegas)
    return stack[0]


def average_by_count(
    stack: Float[Tensor, "vectors *shape"], omegas: Float[Tensor, "vectors"]
) -> Float[Tensor, "*shape"]:
    """Returns Σ ωᵢ Δᵢ / n for n vectors; the SVD methods use it for tensors that are no matrix."""
    return divide(sum_in_chunks(stack, omegas), float(len(stack)))


def divide(total: Float[Tensor, "*shape"], divisor: Tensor | float) -> Float[Tensor, "*shape"]:
    """Divides `total` in place, rounded once on any device, and returns it.

    CUDA multiplies by the reciprocal of a divisor that is on the CPU (torch 2.13,
    BinaryDivTrueKernel.cu), which rounds twice. So the divisor is moved to where the values are.
    """
    return total.div_(torch.as_tensor(divisor, dtype=total.dtype, device=total.device))


def cancel(omegas: tuple[float, ...]) -> bool:
    """Reports whether ω sum to 0, but for rounding, so that nothing can be divided by their sum."""
    least = max(1e-8, CANCELLED * sum(map(abs, omegas)))
    return abs(sum(omegas)) < least


def sum_agreeing(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    *,
    normalize: bool,
    elect: str,
    divide_by: str,
    lambda_: float = 1.0,
) -> Float[Tensor, "*shape"]:
    """Elects a sign for each entry and adds the ωᵢΔᵢ that have it: TIES (arXiv 2306.01708).

    A tie elects +. Of 3 and −2 at equal ω, + is elected and 3 is kept. At ω 0.2 and 0.8 it is
    0.6 against −1.6, so − is elected by weight.

    Args:
        stack: the deltas; used up.
        omegas: one per vector.
        normalize: divide each entry by the total of those that agree; see `divide_by`.
        elect: "weighted", the sign of Σ ωᵢΔᵢ, or "unweighted", the sign of Σ Δᵢ.
        divide_by: "weight", the sum of the agreeing ω, or "count", their number.
        lambda_: a factor on the result.
    """
    flat = stack.flatten(1)
    columns, of_both_signs = omegas[:, None], bool(omegas.min() < 0 < omegas.max())
    cancels = normalize and divide_by == "weight" and of_both_signs
    if _loops.elected_sum(
        flat,
        omegas.tolist(),
        weighted=elect == "weighted",
        divide_by=divide_by if normalize else None,
        cancelled=CANCELLED if cancels else None,
        factor=lambda_,
    ):
        return stack[0]
    for part in chunks(flat):
        # mergekit elects after multiplying by ω, the TIES paper before (arcee-ai/mergekit#474).
        weighted = part * columns
        votes = weighted if elect == "weighted" else part
        agrees = with_the_majority(votes)
        total = _in_turn(weighted * agrees)
        if normalize:
            divisor = (
                _in_turn(columns * agrees)
                if divide_by == "weight"
                else agrees.sum(0).to(total.dtype)
            )
            none = divisor == 0
            # ω of both signs may cancel. Only rounding is left of their sum then.
            if cancels:
                none |= divisor.abs() <= CANCELLED * _in_turn(columns.abs() * agrees)
            # Where nobody agrees the total is 0 already, and 0 / 0 would be nan.
            total /= divisor.masked_fill_(none, 1.0)
        # The chunk has been read, so its first row may take the result: no tensor beside the stack.
        part[0] = total if lambda_ == 1.0 else total.mul_(lambda_)
    return stack[0]


def _in_turn(rows: Float[Tensor, "vectors n"]) -> Float[Tensor, "n"]:
    """Adds rows one after the other, in the first: torch's sum has an order of its own."""
    total = rows[0]
    for row in rows[1:]:
        total += row
    return total


def with_the_majority(votes: Float[Tensor, "vectors n"]) -> Bool[Tensor, "vectors n"]:
    """Returns which entries have the sign of their column's sum; a sum of 0 elects +.

    In the column 3, −2, 0 it is the first. An entry of 0 has no sign.
    """
    # A tie elects +, as in mergekit; torch.sign would give 0, with which nobody agrees.
    # Summed in float64, because a sign decides between whole entries.
    total = votes[0].to(torch.float64, copy=True)
    for vote in votes[1:]:
        total.add_(vote)
    # numpy compares several times as fast as torch.
    positive, array = total.numpy() >= 0, votes.numpy()
    return torch.from_numpy(((array > 0) & positive) | ((array < 0) & ~positive))
