"""Calls loops.c: what methods do with deltas in memory, in one pass.

loops.c is compiled when the package is installed. Without a C compiler, and for float64, numpy and
torch do the same with the same bits, in several passes.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt64
from numpy.typing import NDArray
from torch import Tensor

DIVISORS = {None: 0, "weight": 1, "count": 2}
"""What an elected sum is divided by -> its number in loops.c."""


@cache
def library() -> ctypes.CDLL | None:
    """Loads the compiled functions; returns None if they were not compiled."""
    # Plain C without Python's API: it is only named like an extension module, and ctypes loads it.
    files = [Path(__file__).with_name(f"_loops_c{suffix}") for suffix in EXTENSION_SUFFIXES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    compiled = ctypes.CDLL(str(file))
    # Without argtypes, ctypes passes a whole number as a C int of 32 bits and cuts addresses.
    size, address, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32
    wide, single, double = ctypes.c_uint64, ctypes.c_float, ctypes.c_double
    compiled.elected_sum.argtypes = [
        *(size, size, address, size, address, number, number, single, single, address)
    ]
    compiled.count_upper.argtypes = [size, address, address]
    compiled.count_lower.argtypes = [size, address, ctypes.c_uint32, address]
    compiled.drop_at_random.argtypes = [size, address, wide, wide, double]
    compiled.drop_by_rank.argtypes = [size, size, address, wide, wide, double, double, address]
    return compiled


def compiled_for(values: Tensor) -> ctypes.CDLL | None:
    """Returns the compiled functions if they can work on values: float32 in the CPU's memory."""
    fits = values.dtype == torch.float32 and values.device.type == "cpu"
    return library() if fits and values.stride(-1) == 1 else None


def elected_sum(
    stack: Float[Tensor, "vectors n"],
    omegas: Sequence[float],
    *,
    weighted: bool,
    divide_by: str | None,
    cancelled: float | None,
    factor: float,
) -> bool:
    """Elects signs and adds what agrees, into the first vector; see _sums.sum_agreeing.

    Args:
        stack: the deltas; each contiguous.
        omegas: one per vector.
        weighted: whether the votes are weighted by ω.
        divide_by: "weight", "count" or None.
        cancelled: the share of the agreeing |ω| at which a divisor counts as 0; None for exactly 0.
        factor: a factor on the result.

    Returns:
        False if nothing was done, because loops.c was not compiled or cannot read the stack.
    """
    compiled = compiled_for(stack)
    if compiled is None:
        return False
    weights = (ctypes.c_float * len(omegas))(*omegas)
    compiled.elected_sum(
        *(stack.shape[1], len(stack), stack.data_ptr(), stack.stride(0), weights),
        *(weighted, DIVISORS[divide_by], -1.0 if cancelled is None else cancelled, factor),
        stack.data_ptr(),
    )
    return True


def count_upper(values: Float[Tensor, "n"], counts: NDArray[np.int64]) -> None:
    """Adds to the counts of float32 magnitudes by their upper 16 of 31 bits.

    Args:
        values: of any sign.
        counts: 2¹⁶ numbers.
    """
    if compiled := compiled_for(values):
        compiled.count_upper(len(values), values.data_ptr(), counts.ctypes.data)
    else:
        counts += np.bincount(_magnitudes(values) >> 15, minlength=len(counts))


def count_lower(values: Float[Tensor, "n"], upper: int, counts: NDArray[np.int64]) -> None:
    """Adds to the counts of the magnitudes with given upper bits by their lower 15 bits.

    Args:
        values: float32, of any sign.
        upper: the upper 16 of 31 bits.
        counts: 2¹⁵ numbers.
    """
    if compiled := compiled_for(values):
        compiled.count_lower(len(values), values.data_ptr(), upper, counts.ctypes.data)
    else:
        bits = _magnitudes(values)
        counts += np.bincount(bits[bits >> 15 == upper] & 0x7FFF, minlength=len(counts))


def drop_at_random(values: Float[Tensor, "n"], density: float, seed: int, start: int) -> None:
    """Zeros each entry whose number from the stream of a seed is not below the density.

    Args:
        values: changed in place.
        density: the probability that an entry is kept.
        seed: of the stream; see `stream`.
        start: the number of the first entry in the stream.
    """
    if compiled := compiled_for(values):
        compiled.drop_at_random(len(values), values.data_ptr(), seed, start, density)
    else:
        drawn = drawn_from(stream(seed, start, len(values)))
        values.masked_fill_(torch.from_numpy(drawn >= density), 0.0)


def drop_by_rank(
    rows: Float[Tensor, "rows n"], low: float, high: float, seed: int, start: int
) -> None:
    """Zeros entries at random, those of small magnitude in their row more often.

    Args:
        rows: changed in place. Entries of equal magnitude are ranked by position.
        low: the probability with which the smallest entry of a row is kept.
        high: that of the largest entry. In between it rises evenly with the rank.
        seed: of the stream; see `stream`.
        start: the number of the first entry in the stream.
    """
    columns = rows.shape[1]
    # The only entry of a row is in the middle.
    low, step = (low, (high - low) / (columns - 1)) if columns > 1 else ((low + high) / 2, 0.0)
    if (compiled := compiled_for(rows)) and rows.is_contiguous():
        scratch = np.empty(2 * columns, np.uint64)
        compiled.drop_by_rank(
            *(*rows.shape, rows.data_ptr(), seed, start, low, step, scratch.ctypes.data)
        )
        return
    # The argsort of an argsort is the rank.
    order = rows.abs().argsort(dim=1, stable=True).argsort(dim=1).numpy()
    drawn = drawn_from(stream(seed, start, rows.numel())).reshape(order.shape)
    rows.masked_fill_(torch.from_numpy(drawn >= low + step * order), 0.0)


def stream(seed: int, start: int, size: int) -> UInt64[np.ndarray, "size"]:
    """Returns `size` numbers of the stream of a seed, from number `start` on: SplitMix64.

    Any part of it can be computed by itself. Source: Steele, Lea and Flood 2014, Fast splittable
    pseudorandom number generators, https://doi.org/10.1145/2660193.2660195, figure 16.

    >>> stream(1234567, 0, 2)
    array([6457827717110365317, 3203168211198807973], dtype=uint64)
    """
    mixed = np.arange(start + 1, start + size + 1, dtype=np.uint64)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(seed)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def drawn_from(numbers: UInt64[np.ndarray, "size"]) -> Float[np.ndarray, "size"]:
    """Returns numbers of a stream as numbers in [0, 1), by their upper 53 bits."""
    return (numbers >> np.uint64(11)) * np.float64(2.0**-53)


def _magnitudes(values: Tensor) -> NDArray[np.int32]:
    """Returns the bits of float32 values without their sign; they rise with the magnitude."""
    bits: NDArray[np.int32] = values.contiguous().view(torch.int32).numpy() & 0x7FFFFFFF
    return bits
