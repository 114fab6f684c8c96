"""Karcher mean: the point of the sphere whose summed geodesics to all models cancel, found by iteration."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merging.methods._contract import Range, Site
from merging.methods._edits import gram, summed

PAPER = "https://arxiv.org/abs/2603.04972; https://doi.org/10.1002/cpa.3160300502 (Karcher 1977)"
FORMULA = "mean ‖Θᵢ‖ · m, with Σ log_m(Θᵢ / ‖Θᵢ‖) = 0; a base is one more Θᵢ"
SPACE = "weights"
BASE = "vector"
SCOPE = "tensor"
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    max_iter: Annotated[int, Range(0, 10_000), "the most steps"] = 10,
    tol: Annotated[
        float, Range(0.0, 1.0), "a step shorter than this, in radians, is the last"
    ] = 1e-5,
) -> Float[Tensor, "*shape"]:
    """The mean of [2, 0] and [0, 4] has their mean length, 3, and the direction between them."""
    if len(stack) == 1:
        return stack[0]
    products = gram(stack)
    norms = products.diagonal().sqrt()
    valid = norms > tol
    if not valid.any():
        return stack[0].zero_()
    scale = torch.where(valid, 1 / norms, 0.0)
    mean = _mean(products * scale[:, None] * scale, valid, max_iter, tol)
    return summed(stack, (mean * scale * norms.mean()).to(stack.dtype))


def _mean(
    products: Float[Tensor, "n n"], valid: Bool[Tensor, "n"], max_iter: int, tol: float
) -> Float[Tensor, "n"]:
    """The mean as coefficients of the unit vectors, from their products: all that is iterated lies in their span."""
    count = int(valid.sum())
    mean = valid.double() / count
    length = (mean @ products @ mean).clamp(min=0).sqrt()
    mean = (
        mean / length
        if length >= tol
        else torch.eye(len(valid), dtype=torch.float64)[int(valid.nonzero()[0])]
    )
    for _ in range(max_iter):
        dots = (products @ mean).clamp(-1, 1)
        angles = torch.acos(dots)
        # near the mean an angle is its own sine, and nothing is left to go
        steps = torch.where(valid & (angles >= tol), angles / torch.sin(angles), 0.0) / count
        tangent = steps - (steps @ dots) * mean
        length = (tangent @ products @ tangent).clamp(min=0).sqrt()
        if length < tol:
            break
        mean = torch.cos(length) * mean + (torch.sin(length) / length) * tangent
        mean = mean / (mean @ products @ mean).sqrt()
    return mean
