"""Iso-CTS: Iso-C with the sum's weakest directions replaced by task-specific ones."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._parameters import Lambda, Outside
from merging.methods._spectrum import averaged, decomposed, polar, triplets
from merging.methods._sums import average_by_count, weighted_sum
from merging.methods._values import Range, Site

PAPER = "https://arxiv.org/abs/2502.04959"
FORMULA = (
    "Θ + λ · mean(σ) · U⊥ V⊥ᵀ, from the leading singular directions of Σ ωᵢ Δᵢ and those of each "
    "ωᵢΔᵢ outside them; tensors that are not matrices of layers are averaged"
)
SPACE = "deltas"
SCOPE = "tensor"
ON_DEVICE = True
in_blocks = averaged


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    common: Annotated[
        float,
        Range(0.0, 1.0),
        "the share of the directions that come from the sum; the rest come from single tasks",
    ] = 0.8,
    outside: Outside = False,
    lambda_: Lambda = 1.0,
) -> Float[Tensor, "*shape"]:
    """Combines common and task-specific directions with equal strength: Iso-CTS (arXiv 2502.04959).

    The directions that are not common are divided equally among the tasks; a remainder goes to
    the common ones. At common = 1 the result is that of `iso_c`, and as there, directions that
    neither the sum nor a task has stay 0.
    """
    if not decomposed(stack.shape[1:], site.depth, outside):
        return average_by_count(stack, omegas).mul_(lambda_)
    rank, tasks = min(stack.shape[1:]), len(stack)
    each = round((rank - int(rank * common)) / tasks)
    # round() may give the tasks more directions together than the matrix has.
    if each * tasks > rank:
        each -= 1
    shared = rank - each * tasks
    left, sizes, right = triplets(weighted_sum(stack, omegas, keep=True), shared).determined()
    lefts, rights, all_sizes = [left], [right], [sizes]
    for delta, omega in zip(stack, omegas, strict=True):
        own = delta * omega
        # Divided by the largest entry first, because squares may leave float32's range.
        peak = own.abs().max()
        whole = torch.linalg.vector_norm(own / peak) * peak
        # Only what the common directions do not hold already is specific to the task.
        own -= lefts[0] @ (lefts[0].T @ own)
        # If they hold all of it, what is left is rounding and has no directions.
        left, sizes, right = triplets(own, each).determined(whole)
        lefts.append(left)
        rights.append(right)
        all_sizes.append(sizes)
    merged: Tensor = polar(torch.cat(lefts, 1))[0] @ polar(torch.cat(rights, 0))[0]
    return merged.mul_(torch.cat(all_sizes).mean() * lambda_)
