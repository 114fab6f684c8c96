"""The door to kernel.c: weighted sums and inner products of stored weights, in one pass over memory or files.

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

from merging.inputs.checkpoint import Stored

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
"""What kernel.c reads and writes, and its word for it."""
MOST = 16
"""The most rows of which it takes the inner products."""
SLICE = 2**16
"""Elements of each file that it reads at once, whole runs: those of six in bfloat16 stay in the second cache of a core."""

Values = Tensor | Stored
"""Elements in memory, 1-D and contiguous, or in a file; of one of DTYPES."""


class VectorSpan(NamedTuple):
    """Elements of one vector, as they are stored or as differences from the base."""

    values: Values
    difference: bool


class Terms(NamedTuple):
    """A weighted sum: factor · Σ ω_k x_k / divisor."""

    omegas: Sequence[float]
    """One for each row."""
    divisor: float = 1.0
    """Not applied if it is 1."""
    factor: float = 1.0
    """Not applied if it is 1."""


class _Source(ctypes.Structure):
    """See kernel.c."""

    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("offset", ctypes.c_int64),
        ("file", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("difference", ctypes.c_int32),
    )

    @classmethod
    def of(cls, values: Values, difference: bool = False) -> "_Source":
        """Of elements wherever they are."""
        if isinstance(values, Stored):
            return cls(None, values.offset, values.file, DTYPES[values.dtype], difference)
        return cls(values.data_ptr(), 0, -1, DTYPES[values.dtype], difference)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they were not compiled."""
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_kernel{suffix}")
        if file.is_file():
            break
    else:
        return None
    found = ctypes.CDLL(str(file), use_errno=True)
    address, dtype, size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t
    rows: list[Any] = [size, address, size, address]
    scale: list[Any] = [address, ctypes.c_float, ctypes.c_float]
    found.weighted_sum.argtypes = [*rows, *scale, address, dtype, size, address, address]
    found.inner_products.argtypes = [*rows, address, address, size, address]
    found.all_finite.argtypes = [size, address, dtype]
    return found


def reads(*dtypes: torch.dtype) -> bool:
    """Whether it was compiled, and reads and writes all of these dtypes."""
    return all(dtype in DTYPES for dtype in dtypes) and library() is not None


def weighted_sum(
    base: Values | None,
    rows: Sequence[VectorSpan],
    terms: Terms,
    out: Tensor,
    scratch: Tensor | None = None,
) -> None:
    """out = base + factor · Σ ω_k (x_k − base) / divisor; without a base, out = factor · Σ ω_k x_k / divisor.

    In float32, each operation rounded by itself, in the order of the rows; rounded to the dtype of `out` at the end.

    Args:
        base: the base's elements as stored, (n,).
        rows: at least one, (n,) each; of a difference the base is not subtracted.
        terms: ω, divisor and factor.
        out: (n,).
        scratch: bytes to read into, as many as scratch_bytes says; needed where base or rows are in files.

    Raises:
        CheckpointError: when a file cannot be read.
    """
    theta, given = _sources(base, rows)
    weights, places = (ctypes.c_float * len(rows))(*terms.omegas), (ctypes.c_void_p * len(rows))()
    target = out.data_ptr(), DTYPES[out.dtype], SLICE, _room(base, rows, scratch), places
    failed = _compiled().weighted_sum(
        out.numel(), theta, len(rows), given, weights, terms.divisor, terms.factor, *target
    )
    _raise(failed, base, rows)


def inner_products(
    base: Values, rows: Sequence[VectorSpan], scratch: Tensor | None = None
) -> tuple[Float[NDArray[np.float64], "rows rows"], float]:
    """⟨Δ_i, Δ_j⟩ and ‖Θ‖², in float64, of deltas in float32; products are summed in float32 eight at a time.

    Within 2e-8 of ‖Δ_i‖‖Δ_j‖ on random rows of 2²⁰; the bits depend neither on the processor nor on threads.

    Args:
        base: the base's elements as stored, (n,).
        rows: at most MOST, (n,) each.
        scratch: see weighted_sum.

    Raises:
        CheckpointError: when a file cannot be read.
    """
    if len(rows) > MOST:
        raise ValueError(f"at most {MOST} rows at once, {len(rows)} given")
    size = base.size if isinstance(base, Stored) else base.numel()
    grams, square = np.empty((len(rows), len(rows))), ctypes.c_double()
    theta, given = _sources(base, rows)
    found = grams.ctypes.data, ctypes.byref(square), SLICE, _room(base, rows, scratch)
    _raise(_compiled().inner_products(size, theta, len(rows), given, *found), base, rows)
    return grams, square.value


def all_finite(values: Tensor) -> bool:
    """Whether no element is infinite or not a number.

    Args:
        values: contiguous, in this machine's memory, of one of DTYPES.
    """
    return bool(_compiled().all_finite(values.numel(), values.data_ptr(), DTYPES[values.dtype]))


def scratch_bytes(rows: int) -> int:
    """How much memory it reads files into: of a base and so many rows."""
    return (rows + 1) * SLICE * 4


def _compiled() -> ctypes.CDLL:
    found = library()
    assert found is not None, "ask reads() first"
    return found


def _sources(base: Values | None, rows: Sequence[VectorSpan]) -> tuple[object, object]:
    """The base, or None, and the rows as both functions take them."""
    theta = None if base is None else ctypes.pointer(_Source.of(base))
    return theta, (_Source * len(rows))(*(_Source.of(*row) for row in rows))


def _room(base: Values | None, rows: Sequence[VectorSpan], scratch: Tensor | None) -> int | None:
    if not any(isinstance(values, Stored) for values in (base, *(row.values for row in rows))):
        return None
    if scratch is None or scratch.nbytes < scratch_bytes(len(rows)):
        raise ValueError(
            f"reading {len(rows)} rows from files takes a scratch of {scratch_bytes(len(rows)):,} bytes"
        )
    return scratch.data_ptr()


def _raise(failed: int, base: Values | None, rows: Sequence[VectorSpan]) -> None:
    """Say which file could not be read, if one could not."""
    if failed:
        stored = base if failed < 0 else rows[failed - 1].values
        assert isinstance(stored, Stored)
        raise stored.failed(ctypes.get_errno())
