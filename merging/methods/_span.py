"""Vectors of any size as points in the space that they span: lengths, cosines, coordinates.

All is computed in float64, chunk by chunk. What a method finds in the span it hands back as one
coefficient per vector, and `sum_in_float64` makes the tensor of them. Lengths and angles of whole
tensors are in merging.methods._survey.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._chunks import CHUNK
from merging.methods._survey import Chunk, cosines_of, surveyed
from merging.methods._values import Site

ROUNDING = 1e-6
"""Differences between unit vectors, in radians, that count as rounding.

Multiples of one tensor that were rounded to float32 differ by up to 1e-7.
"""
CANCELLING = 1e3
"""Vectors whose coefficients sum to more than this in a unit vector need `exact_coordinates`."""


def directions(
    stack: Float[Tensor, "vectors rows n"],
) -> tuple[Float[Tensor, "vectors rows"], Float[Tensor, "rows vectors vectors"]]:
    """Returns the length of each row of each vector, and the cosines between the vectors' rows.

    [3, 0] and [0, −2] have lengths 3 and 2 and the cosine 0. A row of zeros has the cosine 0 with
    every row, also with itself.

    The error of a cosine is about 1e-16. So an angle near 0 or π is known to 1e-8 only.
    """
    vectors, rows, _ = stack.shape
    products = torch.zeros(rows, vectors, vectors, dtype=torch.float64)
    exponents = _exponents(stack)
    for block, at in _blocks(rows, stack.shape[2]):
        wide = stack[:, block, at].double()
        if stack.dtype == torch.float64:
            wide = torch.ldexp(wide, -exponents[:, block, None])
        products[block] += wide.transpose(0, 1) @ wide.permute(1, 2, 0)
    lengths = products.diagonal(dim1=1, dim2=2).sqrt().T
    return torch.ldexp(lengths, exponents), cosines_of(products)


def length(parts: Iterable[Float[Tensor, "n"]]) -> float:
    """Returns the length of a vector that comes in parts, in float64, without overflow."""
    sizes = []
    for part in parts:
        wide = part.double()
        # Squares of float32 values are in range.
        peak = float(wide.abs().max()) if part.dtype == torch.float64 and part.numel() else 1.0
        sizes.append(float(torch.linalg.vector_norm(wide / peak)) * peak if peak else 0.0)
    return math.hypot(*sizes)


def coordinates(cosines: Float[Tensor, "vectors vectors"]) -> Float[Tensor, "vectors axes"]:
    """Returns unit vectors with these cosines, each as a row of coordinates.

    Where unit vectors nearly cancel, their sum has an error of 1e-8; see `exact_coordinates`.
    """
    values, axes = torch.linalg.eigh(cosines)
    found: Tensor = axes * values.clamp(min=0).sqrt()
    return found


def exact_coordinates(
    stack: Float[Tensor, "vectors *shape"], site: Site, lengths: Float[Tensor, "vectors"]
) -> Float[Tensor, "vectors axes"]:
    """Returns the directions of whole vectors, each as a row of coordinates, to about 1e-15.

    They come from a QR decomposition of the vectors themselves. That takes some ten times as long
    as their cosines.

    Args:
        stack: the vectors, or a block of each.
        site: see `surveyed`.
        lengths: the lengths of the whole vectors. A vector of zeros has coordinates of zeros.
    """
    exponents = torch.frexp(lengths).exponent

    def triangle(chunk: Chunk) -> Tensor:
        """Returns the triangular factor of a chunk."""
        columns = torch.ldexp(chunk.values.double(), -exponents[:, None]).T
        found: Tensor = torch.linalg.qr(columns, mode="r").R
        return found

    found = surveyed(stack, site, ("triangles",), triangle, _joined_triangles)
    sizes = torch.linalg.vector_norm(found, dim=0)
    units: Tensor = torch.where(sizes > 0, found / sizes, 0.0).T
    return units


def _joined_triangles(triangles: list[Tensor]) -> Tensor:
    """Returns the triangular factor of all chunks from those of each."""
    found: Tensor = torch.linalg.qr(torch.cat(triangles), mode="r").R
    return found


def sum_in_float64(
    stack: Float[Tensor, "vectors rows n"], factors: Float[Tensor, "vectors rows"]
) -> Float[Tensor, "rows n"]:
    """Returns Σ fᵢ xᵢ row by row, rounded once, in the memory of the first vector.

    Where vectors nearly cancel the factors are large, and float32 sums would lose the digits that
    are left.
    """
    for block, at in _blocks(*stack.shape[1:]):
        # Products and sums are rounded one by one; see merging.methods._sums.weighted_sum.
        total = stack[0, block, at].double().mul_(factors[0, block, None])
        for values, factor in zip(stack[1:], factors[1:], strict=True):
            total.add_(values[block, at].double().mul_(factor[block, None]))
        stack[0, block, at] = total
    return stack[0]


def _blocks(rows: int, columns: int) -> Iterable[tuple[slice, slice]]:
    """Yields slices of rows and of columns that cut a matrix into blocks of about CHUNK entries."""
    width = max(1, min(columns, CHUNK))
    height = max(1, CHUNK // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


def _exponents(stack: Float[Tensor, "vectors rows n"]) -> Tensor:
    """Returns the powers of 2 by which to divide each row so that its squares are in range.

    Returns:
        int32 (vectors, rows); 0 for float32 values, whose squares float64 holds.
    """
    if stack.dtype != torch.float64 or not stack.shape[2]:
        return torch.zeros(stack.shape[:2], dtype=torch.int32)
    peaks = torch.linalg.vector_norm(stack, ord=math.inf, dim=2)
    return torch.frexp(peaks).exponent
