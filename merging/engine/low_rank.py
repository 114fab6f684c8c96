"""Low-rank factors: of a sum of adapters, exact or truncated, and of a full fine-tune's displacement.

The best approximation of rank k of a matrix is its first k singular triplets (Eckart and Young 1936,
https://doi.org/10.1007/BF02288367), and the squared error is the sum of the squares of the singular values left out.
Of a product it is found without the product: orthonormal bases of both factors first, then the SVD of a small core.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from merging.engine.tasks import Task
from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Weights, shape_of
from merging.inputs.lora_vector import Factors
from merging.methods._contract import Site
from plumbing.suggest import listed

EXACT = 2048
"""The smaller side up to which a full SVD is computed, in float64: 4 seconds for 2048×2048 on one core."""
OVERSAMPLE, POWER_ITERATIONS, SEED = 16, 8, 0
"""Of the randomised SVD above it (Halko, Martinsson, Tropp 2011, arXiv 0909.4061): its error was at most 0.3 % above the
least on 2304×3072 independent normal numbers, the hardest case, at ranks 16 to 256."""

SUM = "task_arithmetic"
"""The method that is a sum of the deltas, each with a factor of its own: a sum of products is a product."""


class Product(NamedTuple):
    """A matrix as left @ right, never multiplied out, in the orientation of the base's tensor."""

    left: Tensor
    """(rows, rank)."""
    right: Tensor
    """(rank, columns)."""

    @property
    def rank(self) -> int:
        """The number of columns of the left factor."""
        return self.left.shape[1]

    def to(self, dtype: torch.dtype) -> "Product":
        """The same product with its factors rounded to a dtype."""
        return Product(self.left.to(dtype), self.right.to(dtype))


def check_rank(rank: int | None) -> None:
    """Raise a RecipeError for a rank that cannot be."""
    if rank is not None and rank < 1:
        raise RecipeError(f"rank is {rank}, expected a whole number from 1.")


def coefficients(task: Task) -> list[float]:
    """The factor of each vector of a task in the merged displacement: ω, times λ, over a divisor where there is one.

    Raises:
        RecipeError: for a method that is not such a sum.
    """
    if task.method.name != SUM:
        raise RecipeError(
            f"merge_method {task.method.name} is not a sum of the adapters' products, so that its result is no adapter. "
            f"Use {SUM}, or leave --as-adapter out and get a full model."
        )
    return factors_of(task)


def factors_of(task: Task) -> list[float]:
    """The factor of each vector of a task, of any method that is LINEAR: what it makes of the unit vectors."""
    units = torch.eye(len(task.vectors), dtype=torch.float64)
    omegas = torch.tensor(task.omegas, dtype=torch.float64)
    found: Tensor = task.method.combine(
        units.clone(), omegas, Site(task.name, units[0], task.depth), **dict(task.arguments)
    )
    values: list[float] = found.tolist()
    return values


def joined(terms: Sequence[tuple[float, Factors]]) -> Product:
    """Σ c_i s_i L_i R_i as one product of rank Σ r_i, in float64: the left factors, scaled, side by side.

    >>> one = Factors(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]]), 0.5)
    >>> joined([(2.0, one), (-1.0, one)])
    Product(left=[[1.0, -0.5], [2.0, -1.0]], right=[[3.0, 4.0], [3.0, 4.0]])
    """
    left = torch.cat(
        [factors.left.double() * (factor * factors.scale) for factor, factors in terms], dim=1
    )
    return Product(left, torch.cat([factors.right.double() for _, factors in terms]))


def truncated(product: Product, rank: int) -> Product:
    """The best approximation of a product of at most this rank; singular values in halves, √σ in each factor.

    Singular values that are rounding noise are left out, so that the rank may be less; it is 0 for a zero matrix.
    """
    left, left_core = torch.linalg.qr(product.left)
    right, right_core = torch.linalg.qr(product.right.T)
    u, sigma, vh = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    noise = torch.finfo(sigma.dtype).eps * product.left.norm() * product.right.norm()
    return _halves(left @ u, sigma.where(sigma > noise, 0), vh @ right.T, rank)


def norm(product: Product) -> float:
    """The Frobenius norm of a product, from the triangles of two QR decompositions; 0 where its terms cancel to noise."""
    left = torch.linalg.qr(product.left, mode="r").R
    right = torch.linalg.qr(product.right.T, mode="r").R
    found, noise = (left @ right.T).norm(), torch.finfo(left.dtype).eps * left.norm() * right.norm()
    return float(found) if found > noise else 0.0


def difference(one: Product, other: Product) -> Product:
    """The difference of two products, as a product."""
    return Product(torch.cat([one.left, -other.left], dim=1), torch.cat([one.right, other.right]))


def factored(delta: Tensor, *, rank: int | None = None, energy: float | None = None) -> Product:
    """A matrix as a product: the best of a given rank, or the least rank that keeps a share of the squared norm.

    Args:
        delta: (rows, columns), floating point.
        rank: the most columns of the left factor.
        energy: instead of a rank, the share Σ_{i≤k} σ_i² / Σ σ_i² to keep, above 0 and at most 1.

    Where the smaller side is above EXACT the SVD is randomised, with a fixed seed: close to the best of its rank. Its
    singular values are those of a projection of the matrix, so that the energy that they add up to is kept indeed.
    """
    total = float(delta.double().square().sum())
    smaller = min(delta.shape)
    width = min(rank or OVERSAMPLE, smaller) + OVERSAMPLE
    while smaller > EXACT and 2 * width < smaller:
        u, sigma, vh = _randomised(delta, width)
        keep = rank or _least(sigma, total, energy)
        if keep <= width:
            return _halves(u, sigma, vh, keep)
        width *= 2
    u, sigma, vh = torch.linalg.svd(delta.double(), full_matrices=False)
    return _halves(u, sigma, vh, rank or _least(sigma, total, energy))


def residual(delta: Tensor, product: Product) -> float:
    """‖delta − left @ right‖, summed in float64 over blocks of rows: what a product misses, whatever it came from."""
    rows = max(1, 2**20 // delta.shape[1])
    squares = 0.0
    for start in range(0, delta.shape[0], rows):
        part = product.left[start : start + rows].double() @ product.right.double()
        squares += float((delta[start : start + rows].double() - part).square().sum())
    return math.sqrt(squares)


def transposed(base: Weights, names: Sequence[str]) -> dict[str, bool]:
    """For each matrix, whether the base stores it as (in, out), as GPT-2's Conv1D does, and not as (out, in).

    A bias has the length of the output. Square matrices stand as the others do; a matrix without a bias is no Conv1D.

    Raises:
        MismatchError: for square matrices in a model whose others stand both ways.
    """
    found: dict[str, bool] = {}
    square = []
    for name in names:
        (rows, columns), bias = shape_of(base, name), f"{name.removesuffix('weight')}bias"
        if bias in base and rows == columns:
            square.append(name)
        elif bias in base:
            found[name] = shape_of(base, bias) == (columns,)
    ways = set(found.values())
    if square and len(ways) == 2:
        raise MismatchError(
            f"the base's matrices stand both ways, as their biases show, so that of {listed(square, 3)}, which are "
            "square, it cannot be known. Extract with peft or another tool that runs the model's code."
        )
    return {name: found.get(name, name in square and ways == {True}) for name in names}


def _halves(u: Tensor, sigma: Tensor, vh: Tensor, rank: int) -> Product:
    """The first singular triplets, √σ in each factor, without those that are rounding noise."""
    keep = min(rank, int((sigma > torch.finfo(sigma.dtype).eps * sigma.max()).sum()))
    root = sigma[:keep].sqrt()
    return Product(u[:, :keep] * root, root[:, None] * vh[:keep])


def _randomised(delta: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        u, sigma, v = torch.svd_lowrank(delta, q=width, niter=POWER_ITERATIONS)
    return u, sigma, v.T


def _least(sigma: Tensor, total: float, energy: float | None) -> int:
    """The least k whose singular values hold the share `energy` of the squared norm; one more than all if they do not."""
    short = sigma.double().square().cumsum(0) < (energy or 1.0) * (1 - 1e-12) * total
    return int(short.sum()) + 1
