"""Computes low-rank factors of a sum of adapters and of a full fine-tune's displacement.

The best approximation of rank k of a matrix is the sum of its first k singular triplets (Eckart and
Young 1936, https://doi.org/10.1007/BF02288367). Its squared error is the sum of the squares of the
other singular values. For a product, the approximation is computed without multiplying the product
out: orthonormal bases of both factors first, then the SVD of a small core.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from merging.engine.task import Task
from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Weights, shape_of
from merging.inputs.lora_vector import Factors, stacked
from merging.methods import _contract as methods
from merging.methods._spectrum import triplets
from merging.methods._values import Site
from plumbing.suggest import listed

EXACT_RANK, EXACT_ENERGY = 256, 2048
"""The largest smaller side for a full decomposition in float64: of a given rank, and for an energy.

For an energy, the singular values themselves decide the rank.
"""
OVERSAMPLE, POWER_ITERATIONS, SEED = 16, 8, 0
"""Settings of the randomised SVD of larger matrices.

The algorithm is that of Halko, Martinsson and Tropp 2011, arXiv 0909.4061. On 2304×3072 independent
normal numbers, the hardest case, its error at ranks 16 to 256 was at most 0.3 % above the smallest
possible.
"""

NOISE = 1e-12
"""The rounding error, in float64, of a sum of factors that were divided by their sum."""


class Product(NamedTuple):
    """A matrix left @ right, never multiplied out, in the orientation of the base's tensor."""

    left: Tensor
    """(rows, rank)."""
    right: Tensor
    """(rank, columns)."""

    @property
    def rank(self) -> int:
        """The number of columns of the left factor, an upper bound of the matrix's rank."""
        return self.left.shape[1]

    def to(self, dtype: torch.dtype) -> "Product":
        """Returns the product with its factors rounded to a dtype."""
        return Product(self.left.to(dtype), self.right.to(dtype))


def check_rank(rank: int | None) -> None:
    """Raises a RecipeError for a rank below 1; None means no limit."""
    if rank is not None and rank < 1:
        raise RecipeError(f"rank is {rank}, expected a whole number from 1.")


def coefficients(task: Task) -> list[float]:
    """Returns the factor of each vector in the displacement of a method that is a sum.

    For task arithmetic the factor is ω · λ, over the divisor if the recipe normalises. An average
    of weights Σ cᵢ (Θ + Δᵢ) displaces the base by Σ cᵢ Δᵢ if its factors sum to 1.

    Raises:
        RecipeError: for a method that is not a sum of the vectors with factors that are known
            beforehand, and for a sum of weights that scales the base itself.
    """
    method = task.method
    if not method.linear:
        sums = [name for name in methods.names() if methods.load(name).linear]
        raise RecipeError(
            f"merge_method {method.name} ({method.formula}) is not a sum of the adapters' "
            "products, each times one number that ω and parameters give, so its result is not an "
            f"adapter. Use one of {', '.join(sums)}, or leave out --as-adapter to get a full model."
        )
    factors = factors_of(task)
    kept = math.fsum(factors)
    if task.space == "weights" and abs(kept - 1) > NOISE:
        raise RecipeError(
            f"merge_method {method.name} multiplies the base's own weights by {kept:g} at "
            f"{task.name}, and an adapter can only add to them. Choose settings with which the "
            "factors of the models sum to 1 (for linear: normalize: true), or leave out "
            "--as-adapter to get a full model."
        )
    return factors


def factors_of(task: Task) -> list[float]:
    """Returns the factor of each vector of a task, for any LINEAR method.

    They are computed in float64 by combining the unit vectors.
    """
    units = torch.eye(len(task.vectors), dtype=torch.float64)
    omegas = torch.tensor(task.omegas, dtype=torch.float64)
    # combine may overwrite its stack. The clone keeps units[0], which stands in for the base.
    combined: Tensor = task.method.combine(
        units.clone(), omegas, Site(task.name, units[0], task.depth), **dict(task.arguments)
    )
    values: list[float] = combined.tolist()
    return values


def concatenate(terms: Sequence[tuple[float, Factors]]) -> Product:
    """Returns Σ c_i s_i L_i R_i as one product of rank Σ r_i, in float64; see `stacked`."""
    left, right, _ = stacked(terms, torch.float64)
    return Product(left, right)


def truncate(product: Product, rank: int) -> Product:
    """Returns the best approximation of a product by one of at most this rank.

    Both factors get √σ of each singular value σ. Singular values that are rounding noise are left
    out, so the rank may be smaller; it is 0 for a zero matrix.
    """
    left, left_core = torch.linalg.qr(product.left)
    right, right_core = torch.linalg.qr(product.right.T)
    u, sigma, vh = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    # Terms that cancel leave singular values of this size instead of 0.
    noise = torch.finfo(sigma.dtype).eps * product.left.norm() * product.right.norm()
    return _balanced_factors(left @ u, sigma.where(sigma > noise, 0), vh @ right.T, rank)


def norm(product: Product) -> float:
    """Returns the Frobenius norm of a product, from the R factors of two QR decompositions.

    It is 0 if the terms of the product cancel to rounding noise.
    """
    left = torch.linalg.qr(product.left, mode="r").R
    right = torch.linalg.qr(product.right.T, mode="r").R
    length = (left @ right.T).norm()
    noise = torch.finfo(left.dtype).eps * left.norm() * right.norm()
    return float(length) if length > noise else 0.0


def difference(first: Product, second: Product) -> Product:
    """Returns first − second as a product, whose rank is the sum of both ranks."""
    return Product(
        torch.cat([first.left, -second.left], dim=1), torch.cat([first.right, second.right])
    )


def factorise(delta: Tensor, *, rank: int | None = None, energy: float | None = None) -> Product:
    """Approximates a matrix by a product: the best of a rank, or the smallest rank for an energy.

    If the smaller side is above EXACT_RANK or EXACT_ENERGY, the SVD is randomised with a fixed
    seed: the result is close to the best of its rank. Its singular values are those of a projection
    of the matrix, so the product really keeps the energy that they add up to.

    Args:
        delta: (rows, columns), floating point.
        rank: the largest number of columns of the left factor.
        energy: instead of a rank, the share Σ_{i≤k} σ_i² / Σ σ_i² to keep, above 0 and at most 1.
    """
    # Of the whole matrix: measured against its own singular values, any projection would keep all
    # of the energy.
    total = float(delta.double().square().sum())
    smaller = min(delta.shape)
    width = min(rank or OVERSAMPLE, smaller) + OVERSAMPLE
    # The rank that an energy needs is not known before: widen the projection until it holds enough.
    # From half of the smaller side on, all singular values are computed instead.
    while smaller > (EXACT_RANK if rank else EXACT_ENERGY) and 2 * width < smaller:
        u, sigma, vh = _randomised_svd(delta, width)
        keep = rank or _smallest_rank(sigma, total, energy)
        if keep <= width:
            return _balanced_factors(u, sigma, vh, keep)
        width *= 2
    u, sigma, vh = triplets(delta.double(), rank and min(rank, smaller))
    return _balanced_factors(u, sigma, vh, rank or _smallest_rank(sigma, total, energy))


def residual(delta: Tensor, product: Product) -> float:
    """Returns the error ‖delta − left @ right‖ of a product, in float64 over blocks of rows."""
    # About a million elements at a time, because a float64 copy of the whole would be large.
    rows = max(1, 2**20 // delta.shape[1])
    squares = 0.0
    for start in range(0, delta.shape[0], rows):
        part = product.left[start : start + rows].double() @ product.right.double()
        squares += float((delta[start : start + rows].double() - part).square().sum())
    return math.sqrt(squares)


def stored_transposed(base: Weights, names: Sequence[str]) -> dict[str, bool]:
    """Returns for each matrix whether the base stores it as (in, out), like GPT-2's Conv1D.

    Otherwise it is stored as (out, in). The bias decides, because it has the length of the output.
    A square matrix has the orientation of the others. A matrix without a bias is not a Conv1D.

    Raises:
        MismatchError: for square matrices with a bias in a model whose other matrices have both
            orientations.
    """
    orientations: dict[str, bool] = {}
    square = []
    for name in names:
        (rows, columns), bias = shape_of(base, name), f"{name.removesuffix('weight')}bias"
        if bias in base and rows == columns:
            square.append(name)
        elif bias in base:
            orientations[name] = shape_of(base, bias) == (columns,)
    seen = set(orientations.values())
    if square and len(seen) == 2:
        raise MismatchError(
            "the biases show that the base stores some matrices as (in, out) and others as "
            f"(out, in), so the orientation of its square matrices ({listed(square, 3)}) is "
            "unknown. Extract with peft or another tool that runs the model's code."
        )
    return {name: orientations.get(name, name in square and seen == {True}) for name in names}


def _balanced_factors(u: Tensor, sigma: Tensor, vh: Tensor, rank: int) -> Product:
    """Returns the first singular triplets with √σ in each factor, without rounding noise."""
    keep = min(rank, int((sigma > torch.finfo(sigma.dtype).eps * sigma.max()).sum()))
    root = sigma[:keep].sqrt()
    return Product(u[:, :keep] * root, root[:, None] * vh[:keep])


def _randomised_svd(delta: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns u, σ and vᵀ of rank `width`; the caller's random state does not change."""
    # The fixed seed makes an extraction repeatable.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        u, sigma, v = torch.svd_lowrank(delta, q=width, niter=POWER_ITERATIONS)
    return u, sigma, v.T


def _smallest_rank(sigma: Tensor, total: float, energy: float | None) -> int:
    """Returns the smallest k whose first singular values hold the share `energy` of `total`.

    It is len(sigma) + 1 if all of them together hold less.
    """
    # Without the 1e-12, rounding could make energy 1 unreachable.
    short = sigma.double().square().cumsum(0) < (energy or 1.0) * (1 - 1e-12) * total
    return int(short.sum()) + 1
