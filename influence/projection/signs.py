"""Random signs of a projection, from a counter-based generator keyed by seed and parameter name.

The generator is Philox 4x64-10 (Salmon and others, "Parallel random numbers: as easy as 1, 2, 3",
2011). It runs on the CPU for every device, so the numbers are the same everywhere.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import xxhash
from numpy.typing import DTypeLike

WORD = 64
"""Signs in one word of the generator."""


def stream(seed: int, name: str, purpose: str) -> np.random.Philox:
    """Returns the generator of one parameter, at its first word.

    Args:
        seed: the seed of the projection.
        name: the name of the parameter.
        purpose: what is drawn. Different purposes have independent numbers.
    """
    # No name may hold a zero byte, so two different triples never give the same text.
    text = "\0".join((str(seed), name, purpose))
    return np.random.Philox(key=xxhash.xxh3_128_intdigest(text.encode()))


def draw_bits(generator: np.random.Philox, words: int) -> np.ndarray:
    """Returns the next words of a generator as bytes, 8 · words of them (uint8)."""
    return generator.random_raw(words).astype("<u8", copy=False).view(np.uint8)


def signs_of(bits: np.ndarray, scale: float, dtype: DTypeLike) -> np.ndarray:
    """Returns +scale for each bit that is 1 and −scale for each that is 0, lowest bit first.

    Args:
        bits: bytes (..., n).
        scale: the size of every value.
        dtype: the dtype of the result.

    Returns:
        Values of the shape (..., 8 · n).
    """
    # A table of 256 rows is several times as fast as unpacking the bits and doing arithmetic.
    values: np.ndarray = _table(scale, np.dtype(dtype))[bits]
    return values.reshape(*bits.shape[:-1], -1)


@cache
def _table(scale: float, dtype: np.dtype) -> np.ndarray:
    """Returns the eight values of every byte (256, 8)."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.where(bits, scale, -scale).astype(dtype)
