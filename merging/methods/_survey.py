"""What a method must know of whole tensors before it can combine a block of them.

A length, for example, is a sum over all entries. Such numbers are computed chunk by chunk, so that
no tensor is held whole, and kept for all blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from merging.methods._chunks import CHUNK
from merging.methods._values import Site

Joined = TypeVar("Joined")

NO_EXPONENT = -4000
"""The exponent of a row of zeros, below that of any number in float64."""
_TILE = 2**15
"""Elements whose float64 copies stay in the cache while they are multiplied."""


class Chunk(ABC):
    """At most CHUNK elements of each vector.

    Attributes:
        start: the first element in the flattened tensor.
    """

    start: int

    @property
    @abstractmethod
    def values(self) -> Float[Tensor, "vectors n"]:
        """Deltas or weights, as the method takes them, in the working dtype; not to be changed."""

    @abstractmethod
    def products(self, *, base: bool) -> Float[Tensor, "rows rows+1"]:
        """Returns the inner products of the vectors, scaled; see `products`.

        Args:
            base: take the base's values as one more row, the first.
        """


class _Held(Chunk):
    """A chunk of a stack in memory."""

    def __init__(self, start: int, values: Tensor, base: Tensor) -> None:
        self.start, self._values, self._base = start, values, base

    @property
    def values(self) -> Tensor:
        return self._values

    def products(self, *, base: bool) -> Tensor:
        return products(torch.cat([self._base[None], self._values]) if base else self._values)


def surveyed(
    stack: Float[Tensor, "vectors *shape"],
    site: Site,
    key: tuple[object, ...],
    of: Callable[[Chunk], Tensor],
    join: Callable[[list[Tensor]], Joined],
    unit: int = 1,
) -> Joined:
    """Computes numbers for each chunk of whole tensors and joins them, or returns them if known.

    Args:
        stack: the tensors, or a block of them.
        site: has the way to the whole tensors, if the stack is a block.
        key: equal keys stand for equal numbers of the same vectors. It begins with a word for their
            kind; of each kind only the last numbers are kept.
        of: computes the numbers of one chunk, in any thread.
        join: makes the result of the numbers of all chunks, in their order.
        unit: a chunk has a multiple of so many elements, such as whole rows.
    """
    if site.survey is not None:
        known: Joined = site.survey(key, of, join, unit)
        return known
    flat, base = stack.flatten(1), site.base.reshape(-1)
    # An empty tensor is one empty chunk.
    size = chunk_size(unit)
    starts = range(0, max(1, flat.shape[1]), size)
    return join([of(_Held(at, flat[:, at : at + size], base[at : at + size])) for at in starts])


def chunk_size(unit: int) -> int:
    """Returns the elements of a chunk: CHUNK, but whole units and at least one."""
    unit = max(1, unit)  # a row of an empty tensor has no element
    return max(1, CHUNK // unit) * unit


def products(rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows rows+1"]:
    """Returns ⟨xᵢ, xⱼ⟩ / 2^(eᵢ+eⱼ) in float64, and in the last column the eᵢ.

    The exponents are 0 for float32 rows, whose squares float64 holds. For float64 rows they are
    those of the largest entries, NO_EXPONENT for zeros.
    """
    exponents = np.zeros(len(rows))
    if rows.dtype == torch.float64:
        # An empty row has no largest entry.
        peaks = np.abs(rows.numpy()).max(1, initial=0.0)
        exponents = np.where(peaks > 0, np.frexp(peaks)[1], NO_EXPONENT).astype(float)
        rows = torch.from_numpy(
            np.ldexp(rows.numpy(), np.where(peaks > 0, -exponents, 0).astype(int)[:, None])
        )
    found = np.zeros((len(rows), len(rows) + 1))
    found[:, -1] = exponents
    for at in range(0, rows.shape[1], _TILE):
        wide = rows[:, at : at + _TILE].double().numpy()
        found[:, :-1] += wide @ wide.T
    return torch.from_numpy(found)


def cosines_of(
    products: Float[Tensor, "*rows vectors vectors"],
) -> Float[Tensor, "*rows vectors vectors"]:
    """Returns the cosines from inner products; 0 with a vector of zeros."""
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    return (products * inverse[..., :, None] * inverse[..., None, :]).clamp(-1, 1)


class Angles:
    """The lengths of vectors and the cosines between them, from the products of all chunks.

    Args:
        found: what `products` returned for each chunk.
    """

    def __init__(self, found: list[Float[Tensor, "rows rows+1"]]) -> None:
        parts = torch.stack(found).numpy()
        exponents = parts[:, :, -1].astype(int)
        top = exponents.max(0)
        behind = exponents - top
        scaled = np.ldexp(parts[:, :, :-1], behind[:, :, None] + behind[:, None, :])
        # One after the other, so that the sum has the same bits on every machine.
        total = np.zeros(scaled.shape[1:])
        for part in scaled:
            total += part
        self._products, self._exponents = torch.from_numpy(total), top

    @cached_property
    def lengths(self) -> Float[Tensor, "rows"]:
        """The lengths, in float64."""
        roots = self._products.diagonal().sqrt().numpy()
        return torch.from_numpy(np.ldexp(roots, np.where(roots > 0, self._exponents, 0)))

    @cached_property
    def cosines(self) -> Float[Tensor, "rows rows"]:
        """The cosines, with an error of about 1e-16; 0 with a row of zeros."""
        return cosines_of(self._products)


def angles(stack: Float[Tensor, "vectors *shape"], site: Site, *, base: bool = False) -> Angles:
    """Returns the lengths and angles of the vectors, each tensor as one vector.

    Args:
        stack: the vectors, or a block of each.
        site: see `surveyed`.
        base: take the base's values as one more vector, the first.
    """
    return surveyed(stack, site, ("angles", base), lambda chunk: chunk.products(base=base), Angles)
