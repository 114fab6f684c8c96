"""Arcee Fusion: take a model's change only where it is large in rows whose distribution it changes."""

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._contract import Site
from merging.methods._edits import CHUNK

PAPER = "https://arcee.ai"
FORMULA = "Θ + Δ where |Δ| · KL(softmax Θ₁ ‖ softmax Θ) ≥ median + 1.5 · (Q₃ − Q₁), by rows"
SPACE = "deltas"
SCOPE = "tensor"
VECTORS = (1, 1)
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
) -> Float[Tensor, "*shape"]:
    """Computed as mergekit computes it, the cancellation in the divergence included; quartiles of all entries.

    mergekit samples a million entries of larger tensors for the quartiles, with a seed of the moment.
    """
    delta = stack[0].view(-1, stack.shape[-1])
    base = site.base.reshape(delta.shape)
    rows = max(1, CHUNK // delta.shape[1])
    spans = [slice(start, start + rows) for start in range(0, len(delta), rows)]
    scores = torch.empty_like(delta)
    for span in spans:
        scores[span] = _importance(delta[span], base[span])
    ordered = scores.view(-1).numpy()
    places = [int(share * (len(ordered) - 1)) for share in (0.25, 0.5, 0.75)]
    ordered.partition(
        sorted(set(places))
    )  # in place: the scores are computed once more rather than kept twice
    first, median, third = (float(ordered[place]) for place in places)
    bar = torch.tensor(median).to(delta) + 1.5 * (
        torch.tensor(third).to(delta) - torch.tensor(first).to(delta)
    )
    for span in spans:
        delta[span] = delta[span].masked_fill(_importance(delta[span], base[span]) < bar, 0.0)
    return stack[0]


def _importance(
    delta: Float[Tensor, "rows n"], base: Float[Tensor, "rows n"]
) -> Float[Tensor, "rows n"]:
    return delta.abs().mul_(_divergence(base + delta, base))


def _divergence(
    tuned: Float[Tensor, "*shape"], base: Float[Tensor, "*shape"]
) -> Float[Tensor, "*rows 1"]:
    """Σ p·log(p/q) along the last axis, both with 1e-8 added."""
    p = torch.softmax(tuned, dim=-1).add_(1e-8)
    q = torch.softmax(base, dim=-1).add_(1e-8)
    return (p * torch.log(p / q)).sum(dim=-1, keepdim=True)
