"""Karcher mean: the point on the sphere whose geodesics to all models sum to zero, by iteration."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merging.methods._sums import gram, sum_in_chunks
from merging.methods._values import Range, Site

PAPER = "https://arxiv.org/abs/2603.04972; https://doi.org/10.1002/cpa.3160300502 (Karcher 1977)"
FORMULA = "mean ‖Θᵢ‖ · m, where Σ log_m(Θᵢ / ‖Θᵢ‖) = 0; a base is one more Θᵢ"
SPACE = "weights"
BASE = "vector"
SCOPE = "tensor"
WEIGHTED = False


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    max_iter: Annotated[int, Range(0, 10_000), "the most iterations"] = 10,
    tol: Annotated[
        float, Range(0.0, 1.0), "stop when a step is shorter than this, in radians"
    ] = 1e-5,
) -> Float[Tensor, "*shape"]:
    """Averages directions on the sphere, and lengths apart: Karcher 1977, arXiv 2603.04972.

    The mean of [2, 0] and [0, 4] has their mean length, 3, and the direction halfway between them.
    Models of length ≤ tol have no direction and are left out.
    """
    if len(stack) == 1:
        return stack[0]
    products = gram(stack)
    norms = products.diagonal().sqrt()
    valid = norms > tol
    if not valid.any():
        return stack[0].zero_()
    scale = torch.where(valid, 1 / norms, 0.0)
    mean = _mean(products * scale[:, None] * scale, valid, max_iter, tol)
    return sum_in_chunks(stack, (mean * scale * norms.mean()).to(stack.dtype))


def _mean(
    products: Float[Tensor, "n n"], valid: Bool[Tensor, "n"], max_iter: int, tol: float
) -> Float[Tensor, "n"]:
    """Returns the mean as coefficients of the unit vectors.

    Every iterate lies in the span of the vectors, so their inner products are all that is needed.

    Args:
        products: inner products of the unit vectors.
        valid: which vectors have a direction.
        max_iter: the most iterations.
        tol: the step length, in radians, at which to stop.
    """
    count = int(valid.sum())
    mean = valid.double() / count
    length = (mean @ products @ mean).clamp(min=0).sqrt()
    # Opposite directions cancel, and their mean is no starting point: start at the first model.
    mean = (
        mean / length
        if length >= tol
        else torch.eye(len(valid), dtype=torch.float64)[int(valid.nonzero()[0])]
    )
    for _ in range(max_iter):
        # Rounding can lift a cosine above 1, of which acos is NaN.
        dots = (products @ mean).clamp(-1, 1)
        angles = torch.acos(dots)
        # Below tol an angle equals its sine: the model is at the mean and pulls it no further.
        steps = torch.where(valid & (angles >= tol), angles / torch.sin(angles), 0.0) / count
        tangent = steps - (steps @ dots) * mean
        length = (tangent @ products @ tangent).clamp(min=0).sqrt()
        if length < tol:
            break
        mean = torch.cos(length) * mean + (torch.sin(length) / length) * tangent
        # Every step moves the mean off the sphere by its rounding.
        mean = mean / (mean @ products @ mean).sqrt()
    return mean
