"""Karcher mean: the point on the sphere whose geodesics to all models sum to zero, by iteration."""

from math import pi
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods import _span
from merging.methods._chunks import in_blocks as in_blocks
from merging.methods._survey import angles
from merging.methods._values import Range, Site

PAPER = "https://arxiv.org/abs/2603.04972; https://doi.org/10.1002/cpa.3160300502 (Karcher 1977)"
FORMULA = (
    "mean ‖Θᵢ‖ · m, where Σ log_m(Θᵢ / ‖Θᵢ‖) = 0, without the Θᵢ that are opposite to m; "
    "a base is one more Θᵢ"
)
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

    From m to the opposite point, −m, all ways are equally short, so a model there pulls m in no
    direction. It counts for the length only: [0.0729], [−0.0447] and [0.0118] give [0.0431].
    The iteration starts at the mean of the directions, or at the first of them if they cancel:
    so [1] and [−3] give [2].
    """
    shares = factors(stack, omegas, site, max_iter=max_iter, tol=tol)
    return _span.sum_in_float64(stack.flatten(1)[:, None], shares[:, None]).view(stack.shape[1:])


def factors(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    max_iter: int,
    tol: float,
) -> Float[Tensor, "vectors"]:
    """Returns the factor of each model, for a whole tensor or a block of it."""
    if len(stack) == 1:
        return torch.ones(1, dtype=torch.float64)
    found = angles(stack, site)
    lengths = found.lengths
    shares, valid = torch.zeros_like(lengths), lengths > tol
    if not valid.any():
        return shares
    mean = _mean(_span.coordinates(found.cosines[valid][:, valid]), max_iter, tol)
    if mean.abs().sum() > _span.CANCELLING:
        mean = _mean(_span.exact_coordinates(stack, site, lengths)[valid], max_iter, tol)
    shares[valid] = mean * (lengths.mean() / lengths[valid])
    return shares


def _mean(units: Float[Tensor, "n axes"], max_iter: int, tol: float) -> Float[Tensor, "n"]:
    """Returns the mean direction as coefficients of the unit vectors.

    Args:
        units: the unit vectors by their coordinates, in float64.
        max_iter: the most iterations.
        tol: the step length, in radians, at which to stop.
    """
    count = len(units)
    shares = units.new_full((count,), 1 / count)
    mean = shares @ units
    length = torch.linalg.vector_norm(mean)
    # Opposite directions cancel, and their mean is no starting point: start at the first model.
    if length < max(tol, _span.ROUNDING):
        shares, mean = torch.eye(count, dtype=units.dtype)[0], units[0]
    else:
        shares, mean = shares / length, mean / length
    for _ in range(max_iter):
        dots = units @ mean
        away = units - dots[:, None] * mean
        sines = torch.linalg.vector_norm(away, dim=1)
        angles = torch.atan2(sines, dots)
        # Below tol the model is at the mean. Within rounding of π it is at the opposite point, and
        # only rounding is left of the direction in which it pulls.
        pulls = (angles >= tol) & (angles < pi - _span.ROUNDING) & (sines > 0)
        steps = torch.where(pulls, angles / sines, 0.0) / count
        tangent = steps @ away
        length = torch.linalg.vector_norm(tangent)
        if length < tol or length == 0:
            break
        turn = torch.sin(length) / length
        shares = torch.cos(length) * shares + turn * (steps - (steps @ dots) * shares)
        mean = torch.cos(length) * mean + turn * tangent
        # Every step moves the mean off the sphere by its rounding.
        size = torch.linalg.vector_norm(mean)
        shares, mean = shares / size, mean / size
    return shares
