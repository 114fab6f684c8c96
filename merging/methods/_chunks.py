"""Walks over a large tensor in chunks that fit in the CPU's cache."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

CHUNK = 2**18
"""Elements per chunk. What is drawn or compared for one chunk stays in the cache, so a method
needs no second copy of a delta."""


def chunks(values: Float[Tensor, "*rows n"]) -> Iterator[Float[Tensor, "*rows m"]]:
    """Yields views of at most CHUNK columns each, in order.

    Args:
        values: cut along the last axis; the other axes stay whole.
    """
    for start in range(0, values.shape[-1], CHUNK):
        yield values[..., start : start + CHUNK]


def in_blocks(shape: Sequence[int], depth: float | None, arguments: Mapping[str, Any]) -> bool:
    """Whether a tensor has more elements than a chunk, so that it is computed in blocks."""
    return math.prod(shape) > CHUNK


def row_length(shape: Sequence[int]) -> int:
    """Returns the elements in a row: all axes but the first; a tensor of one axis is one row."""
    return math.prod(shape[1:] if len(shape) > 1 else shape)
