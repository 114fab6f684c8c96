"""Singular values and directions of a matrix, from the eigenvectors of its smaller Gram matrix.

With rows ≤ columns, M Mᵀ = U diag(σ²) Uᵀ, and Mᵀ U diag(1/σ) are the right directions. That takes a
fraction of the time of an SVD. In float64 a direction whose σ is a share s of
the largest has an error of about 1e-15 / s². Float32 matrices determine directions down to 1e-6.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from merging.one_thread import one_thread

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
    # By numpy: torch's, by MKL, takes longer on AMD and computes both triangles of the product;
    # scipy's holds Python's lock, so that threads wait for each other. Several tensors are
    # computed at a time, each by one thread, so that its bits do not depend on their number.
    array = wide.numpy()
    with one_thread:
        values, vectors = np.linalg.eigh(array @ array.T)
    return torch.from_numpy(values), torch.from_numpy(vectors)
