"""Arcee Fusion: keep only entries of a delta that are large in rows whose softmax it changes."""

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._chunks import CHUNK
from merging.methods._values import Site

PAPER = "https://arcee.ai"
FORMULA = (
    "Θ + Δ where the importance |Δ| · KL(softmax Θ₁ ‖ softmax Θ), KL per row, is at least "
    "median + 1.5 · (Q₃ − Q₁); Θ elsewhere"
)
SPACE = "deltas"
SCOPE = "tensor"
VECTORS = (1, 1)
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
) -> Float[Tensor, "*shape"]:
    """Zeros the entries of the delta whose importance is below the threshold; needs one model.

    The importance is computed as mergekit computes it, including its cancellation error in the
    divergence. The quartiles here are those of all entries; mergekit samples a million entries of
    larger tensors, with a seed that changes from run to run.
    """
    delta = stack[0].view(-1, stack.shape[-1])
    base = site.base.reshape(delta.shape)
    # Whole rows, because the softmax runs over a row.
    rows = max(1, CHUNK // delta.shape[1])
    spans = [slice(start, start + rows) for start in range(0, len(delta), rows)]
    scores = torch.empty_like(delta)
    for span in spans:
        scores[span] = _importance(delta[span], base[span])
    ordered = scores.view(-1).numpy()
    ranks = [int(share * (len(ordered) - 1)) for share in (0.25, 0.5, 0.75)]
    # Partitioned in place: computing the scores again below is cheaper than holding a copy of them.
    ordered.partition(sorted(set(ranks)))
    first, median, third = (float(ordered[rank]) for rank in ranks)
    threshold = torch.tensor(median).to(delta) + 1.5 * (
        torch.tensor(third).to(delta) - torch.tensor(first).to(delta)
    )
    for span in spans:
        delta[span] = delta[span].masked_fill(_importance(delta[span], base[span]) < threshold, 0.0)
    return stack[0]


def _importance(
    delta: Float[Tensor, "rows n"], base: Float[Tensor, "rows n"]
) -> Float[Tensor, "rows n"]:
    """Returns |Δ| times the divergence of its row."""
    return delta.abs().mul_(_divergence(base + delta, base))


def _divergence(
    tuned: Float[Tensor, "*shape"], base: Float[Tensor, "*shape"]
) -> Float[Tensor, "*rows 1"]:
    """Returns KL(p ‖ q) = Σ p·log(p/q) along the last axis, with 1e-8 added to p and q."""
    p = torch.softmax(tuned, dim=-1).add_(1e-8)
    q = torch.softmax(base, dim=-1).add_(1e-8)
    return (p * torch.log(p / q)).sum(dim=-1, keepdim=True)
