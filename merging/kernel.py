"""The door to kernel.c: weighted sums and inner products of stored weights, in one pass over memory.

It is compiled where the package is installed. Without a C compiler, or for other dtypes than float32 and bfloat16,
torch's operators do the same in several passes: of a sum the very same bits, of inner products within their bound.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
"""What kernel.c reads and writes, and its word for it."""
MOST = 16
"""The most rows of which it takes the inner products."""


class Row(NamedTuple):
    """Elements of one vector, as they are stored or as differences from the base."""

    values: Tensor
    """1-D and contiguous, of one of DTYPES."""
    difference: bool


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they were not compiled."""
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_kernel{suffix}")
        if file.is_file():
            break
    else:
        return None
    found = ctypes.CDLL(str(file))
    address, dtype = ctypes.c_void_p, ctypes.c_int32
    rows: list[Any] = [ctypes.c_size_t, address, dtype, ctypes.c_size_t, address, address, address]
    sums: list[Any] = [address, ctypes.c_float, ctypes.c_float, address, dtype]
    found.weighted_sum.argtypes, found.weighted_sum.restype = [*rows, *sums], None
    found.inner_products.argtypes, found.inner_products.restype = [*rows, address, address], ctypes.c_int
    return found


def reads(*dtypes: torch.dtype) -> bool:
    """Whether it was compiled, and reads and writes all of these dtypes."""
    return all(dtype in DTYPES for dtype in dtypes) and library() is not None


def weighted_sum(
    base: Tensor | None, rows: Sequence[Row], omegas: Sequence[float], divisor: float, factor: float, out: Tensor
) -> None:
    """out = base + factor · Σ ω_k (x_k − base) / divisor; without a base, out = factor · Σ ω_k x_k / divisor.

    In float32, each operation rounded by itself, in the order of the rows; rounded to the dtype of `out` at the end.

    Args:
        base: the base's elements as stored, (n,).
        rows: at least one, (n,) each; of a difference the base is not subtracted.
        omegas: one for each row.
        divisor: not applied where it is 1.
        factor: likewise.
        out: (n,).
    """
    given = (ctypes.c_float * len(rows))(*omegas)
    target = out.data_ptr(), DTYPES[out.dtype]
    _compiled().weighted_sum(out.numel(), *_addresses(base, rows), given, divisor, factor, *target)


def inner_products(base: Tensor, rows: Sequence[Row]) -> tuple[Float[NDArray[np.float64], "rows rows"], float]:
    """⟨Δ_i, Δ_j⟩ and ‖Θ‖², in float64, of deltas in float32; products are summed in float32 eight at a time.

    Within 2e-8 of ‖Δ_i‖‖Δ_j‖ on random rows of 2²⁰; the bits depend neither on the processor nor on threads.

    Args:
        base: the base's elements as stored, (n,).
        rows: at most MOST, (n,) each.
    """
    grams = np.empty((len(rows), len(rows)))
    square = ctypes.c_double()
    if _compiled().inner_products(base.numel(), *_addresses(base, rows), grams.ctypes.data, ctypes.byref(square)):
        raise ValueError(f"at most {MOST} rows at once, {len(rows)} given")
    return grams, square.value


def _compiled() -> ctypes.CDLL:
    found = library()
    assert found is not None, "ask reads() first"
    return found


def _addresses(base: Tensor | None, rows: Sequence[Row]) -> tuple[object, ...]:
    """The arguments with which both functions describe their input."""
    count = len(rows)
    return (
        None if base is None else base.data_ptr(),
        0 if base is None else DTYPES[base.dtype],
        count,
        (ctypes.c_void_p * count)(*(row.values.data_ptr() for row in rows)),
        (ctypes.c_int32 * count)(*(DTYPES[row.values.dtype] for row in rows)),
        (ctypes.c_int32 * count)(*(row.difference for row in rows)),
    )
