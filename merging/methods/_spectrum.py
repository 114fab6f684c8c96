"""Singular values and directions of a matrix, from the eigenvectors of its smaller Gram matrix.

With rows ≤ columns, M Mᵀ = U diag(σ²) Uᵀ, and Mᵀ U diag(1/σ) are the right directions. That takes a
sixth of the time of an SVD of 896 × 4864 numbers. In float64 a direction whose σ is a share s of
the largest has an error of about 1e-15 / s². Float32 matrices determine directions down to 1e-6.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

ROUNDING = 1e-6
"""Singular values below this share of the largest are what float32 leaves of 0."""
SMALL = 64
"""The largest smaller side for an SVD of the matrix itself, which is exact to the last digits."""


class Triplets(NamedTuple):
    """Singular triplets M ≈ left · diag(sizes) · right, the largest first.

    Attributes:
        left: (rows, count), orthonormal columns.
        sizes: (count,), falling.
        right: (count, columns), orthonormal rows.
    """

    left: Tensor
    sizes: Tensor
    right: Tensor

    def determined(self, largest: Tensor | None = None) -> "Triplets":
        """Returns the triplets, with zeros for the directions that the matrix does not determine.

        Those of a singular value of 0 are whatever a library makes of the rounding.

        Args:
            largest: what counts as 0 is relative to this, if not to the first singular value.
        """
        known = _determined(self.sizes, largest)
        return Triplets(self.left * known, self.sizes, self.right * known[:, None])


def decomposed(shape: Sequence[int], depth: float | None, outside: bool) -> bool:
    """Whether a method of singular vectors decomposes a tensor: a matrix of a layer.

    A matrix has two axes, both longer than 1, so more than one singular value. The papers treat
    those of layers. A row of an embedding is a token, and the decomposition would mix tokens.

    Args:
        shape: the tensor's.
        depth: of its layer; None outside the layers.
        outside: matrices outside the layers too.
    """
    return len(shape) == 2 and min(shape) > 1 and (outside or depth is not None)


def averaged(shape: Sequence[int], depth: float | None, arguments: Mapping[str, Any]) -> bool:
    """Whether a tensor is not decomposed, so that any block of it can be averaged by itself."""
    return not decomposed(shape, depth, arguments["outside"])


def triplets(matrix: Float[Tensor, "rows columns"], count: int | None = None) -> Triplets:
    """Returns the `count` largest singular triplets, in the matrix's dtype; all if not given."""
    count = min(matrix.shape) if count is None else count
    if min(matrix.shape) <= SMALL:
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        return Triplets(left[:, :count], sizes[:count], right[:count])
    if matrix.shape[0] > matrix.shape[1]:
        right, sizes, left = triplets(matrix.T, count)
        return Triplets(left.T, sizes, right.T)
    wide, scale = _scaled(matrix)
    left = _eigh(wide)[1][:, len(wide) - count :].flip(1)
    right = left.T @ wide
    # Their lengths are exacter than roots of eigenvalues, which have the rounding of the largest.
    sizes = torch.linalg.vector_norm(right, dim=1)
    right /= sizes.clamp(min=torch.finfo(sizes.dtype).tiny)[:, None]
    sizes = sizes * scale
    return Triplets(left.to(matrix.dtype), sizes.to(matrix.dtype), right.to(matrix.dtype))


def polar(
    matrix: Float[Tensor, "rows columns"],
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "least"]]:
    """Returns the orthogonal factor of a matrix, and its singular values, falling.

    The factor is the nearest matrix with orthonormal columns (or rows, if it has fewer rows): U·Vᵀ
    of the SVD, the solution of the orthogonal Procrustes problem. If columns depend on each other
    there are many solutions; this is the smallest, the factor of the polar decomposition. Of two
    equal columns of length 1 it makes two of length √½.
    """
    if min(matrix.shape) <= SMALL:
        found = triplets(matrix)
        known = found.determined()
        return known.left @ known.right, found.sizes
    if matrix.shape[0] > matrix.shape[1]:
        factor, sizes = polar(matrix.T)
        return factor.T.contiguous(), sizes
    wide, scale = _scaled(matrix)
    squares, axes = _eigh(wide)
    # The smallest eigenvalues may be rounded below 0.
    sizes = squares.clamp(min=0).sqrt()
    inverse = torch.where(_determined(sizes.flip(0)).flip(0) > 0, 1 / sizes, 0.0)
    factor = (axes * inverse) @ axes.T @ wide
    return factor.to(matrix.dtype), (sizes.flip(0) * scale).to(matrix.dtype)


def _determined(sizes: Float[Tensor, "n"], largest: Tensor | None = None) -> Float[Tensor, "n"]:
    """Returns 1 for falling singular values whose directions the matrix determines, else 0."""
    return (sizes > ROUNDING * (sizes[:1] if largest is None else largest)).to(sizes.dtype)


def _scaled(matrix: Float[Tensor, "rows columns"]) -> tuple[Tensor, Tensor]:
    """Returns a matrix in float64 whose squares are in its range, and by what it was divided."""
    wide = matrix.double()
    if matrix.dtype != torch.float64:
        return wide, wide.new_ones(())
    peak = wide.abs().max()
    scale = torch.where(peak > 0, peak, 1.0)
    return wide / scale, scale


def _eigh(wide: Float[Tensor, "rows columns"]) -> tuple[Tensor, Tensor]:
    """Returns the rising eigenvalues (rows,) and eigenvectors (rows, rows) of M Mᵀ, in float64."""
    if wide.device.type != "cpu":
        values, vectors = torch.linalg.eigh(wide @ wide.T)
        return values, vectors
    # By numpy: torch's, by MKL, takes twice as long on AMD and computes both triangles of the
    # product; scipy's holds Python's lock, so that threads wait for each other.
    array = wide.numpy()
    with _one_thread:
        values, vectors = np.linalg.eigh(array @ array.T)
    return torch.from_numpy(values), torch.from_numpy(vectors)


class _OneThread:
    """Keeps numpy's BLAS at one thread until the last of those that are in here has left.

    Several tensors are computed at a time, each by one thread, so that its bits do not depend on
    their number. The library's limit holds for the whole process, so it is lifted only when none of
    them computes.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, ExitStack()
        # threadpoolctl lets only that thread lift a limit which has set it.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="blas")

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._keeper.submit(self._begin).result()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._keeper.submit(self._limit.close).result()

    def _begin(self) -> None:
        self._limit.enter_context(_libraries().limit(limits=1))


_one_thread = _OneThread()
# A child process has no thread that could lift a limit.
os.register_at_fork(after_in_child=_one_thread.__init__)  # type: ignore[misc]


@cache
def _libraries() -> ThreadpoolController:
    # Made once, because it searches all libraries that are loaded; numpy's is among them.
    # Without those of OpenMP: torch's own number of threads is one for each thread.
    return ThreadpoolController().select(user_api="blas")
