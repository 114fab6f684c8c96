"""Calls kernel.c: weighted sums and inner products of stored weights, in one pass.

kernel.c is compiled when the package is installed. Without a C compiler, and for dtypes other than
float32 and bfloat16, torch's operators do the same in several passes. Their sums have the same
bits; their inner products agree within the bound of `inner_products`.
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
from torch import Tensor

from merging.inputs.checkpoint import Stored

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
"""The dtypes that kernel.c reads and writes -> its number for each."""
MOST = 16
"""The largest number of rows for `inner_products`: MOST in kernel.c."""
SLICE = 2**16
"""Elements that it reads of each file at once, a multiple of RUN and of the leaves in kernel.c.

Slices of six bfloat16 files together fit in a core's second-level cache.
"""

Values = Tensor | Stored
"""Elements in memory, 1-D and contiguous, or in a file, in one of DTYPES."""


class VectorSpan(NamedTuple):
    """A span of one vector: weights as stored, or differences from the base."""

    values: Values
    difference: bool


class Terms(NamedTuple):
    """The numbers of a weighted sum: factor · Σ ω_k x_k / divisor."""

    omegas: Sequence[float]
    """One ω for each row."""
    divisor: float = 1.0
    """No division if it is 1."""
    factor: float = 1.0
    """No multiplication if it is 1."""


class _Source(ctypes.Structure):
    """The struct `source` of kernel.c."""

    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("leaves", ctypes.c_void_p),
        ("offset", ctypes.c_int64),
        ("file", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("difference", ctypes.c_int32),
    )

    @classmethod
    def of(cls, values: Values, difference: bool = False) -> "_Source":
        """Describes elements in memory or in a file to kernel.c."""
        if isinstance(values, Stored):
            leaves = None if values.leaves is None else values.leaves.ctypes.data
            return cls(None, leaves, values.offset, values.file, DTYPES[values.dtype], difference)
        # File -1 tells kernel.c that the elements are in memory.
        return cls(values.data_ptr(), None, 0, -1, DTYPES[values.dtype], difference)


@cache
def library() -> ctypes.CDLL | None:
    """Loads the compiled functions; returns None if they were not compiled."""
    # Plain C without Python's API: it is only named like an extension module, and ctypes loads it.
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_kernel{suffix}")
        if file.is_file():
            break
    else:
        return None
    # CDLL releases the interpreter's lock during a call, so that threads run in parallel. use_errno
    # keeps the error of a read for _raise.
    compiled = ctypes.CDLL(str(file), use_errno=True)
    # Without argtypes, ctypes passes a whole number as a C int of 32 bits and cuts addresses.
    address, dtype, size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t
    rows: list[Any] = [size, address, size, address]
    scale: list[Any] = [address, ctypes.c_float, ctypes.c_float]
    compiled.weighted_sum.argtypes = [*rows, *scale, address, dtype, size, address, address]
    compiled.inner_products.argtypes = [*rows, address, address, size, address]
    compiled.exact_sum.argtypes = [*rows, address, address, dtype, size, address, address]
    compiled.exact_products.argtypes = [*rows, address, size, address]
    compiled.all_finite.argtypes = [size, address, dtype]
    compiled.hash_leaves.argtypes = [address, size, address]
    return compiled


def reads(*dtypes: torch.dtype) -> bool:
    """Reports whether kernel.c was compiled and reads and writes all of these dtypes."""
    return all(dtype in DTYPES for dtype in dtypes) and library() is not None


def weighted_sum(
    base: Values | None,
    rows: Sequence[VectorSpan],
    terms: Terms,
    out: Tensor,
    scratch: Tensor | None = None,
) -> None:
    """Computes a weighted sum into `out`: base + factor · Σ ω_k (x_k − base) / divisor.

    Without a base it is factor · Σ ω_k x_k / divisor. All is computed in float32 in the order of
    the rows, each operation rounded separately, and rounded to the dtype of `out` at the end.

    Args:
        base: the base's elements as stored, (n,); None for a sum of weights.
        rows: at least one, (n,) each. The base is not subtracted from a row that is a difference.
        terms: ω, divisor and factor.
        out: (n,), in one of DTYPES.
        scratch: at least scratch_bytes(rows) bytes to read into; needed if base or rows are in
            files.

    Raises:
        CheckpointError: if a file cannot be read.
        ValueError: if `scratch` is needed and too small.
    """
    theta, sources = _sources(base, rows)
    # In float32, like the ω that `combine` multiplies by: both must round to the same bits.
    weights = (ctypes.c_float * len(rows))(*terms.omegas)
    elements = (ctypes.c_void_p * len(rows))()
    target = out.data_ptr(), DTYPES[out.dtype], SLICE, _scratch(base, rows, scratch), elements
    failed = _compiled().weighted_sum(
        out.numel(), theta, len(rows), sources, weights, terms.divisor, terms.factor, *target
    )
    _raise(failed, base, rows)


def exact_sum(
    base: Values | None,
    rows: Sequence[VectorSpan],
    factors: Sequence[float],
    out: Tensor,
    scratch: Tensor | None = None,
) -> None:
    """Computes base + Σ f_k (x_k − base) into `out`, with the sum in float64.

    The sum is rounded to float32 once. Without a base it is Σ f_k x_k. Where vectors nearly cancel
    the factors are large, and float32 would lose the digits that are left.

    Args:
        base: the base's elements as stored, (n,); None for a sum of weights.
        rows: at least one, (n,) each. The base is not subtracted from a row that is a difference.
        factors: one for each row.
        out: (n,), in one of DTYPES.
        scratch: as for weighted_sum.

    Raises:
        CheckpointError: if a file cannot be read.
        ValueError: if `scratch` is needed and too small.
    """
    theta, sources = _sources(base, rows)
    weights, elements = (ctypes.c_double * len(rows))(*factors), (ctypes.c_void_p * len(rows))()
    target = out.data_ptr(), DTYPES[out.dtype], SLICE, _scratch(base, rows, scratch), elements
    failed = _compiled().exact_sum(out.numel(), theta, len(rows), sources, weights, *target)
    _raise(failed, base, rows)


def inner_products(
    base: Values, rows: Sequence[VectorSpan], scratch: Tensor | None = None
) -> tuple[Float[np.ndarray, "rows rows"], float]:
    """Computes ⟨Δ_i, Δ_j⟩ and ‖Θ‖² in float64, from deltas in float32.

    Eight products at a time are summed in float32. The error was below 2e-8 of ‖Δ_i‖‖Δ_j‖ on random
    rows of 2²⁰ elements. The bits depend neither on the kind of CPU nor on threads.

    Args:
        base: the base's elements as stored, (n,).
        rows: at most MOST, (n,) each.
        scratch: as for weighted_sum.

    Returns:
        the inner products, (rows, rows), and the base's squared norm.

    Raises:
        CheckpointError: if a file cannot be read.
        ValueError: for more than MOST rows, or if `scratch` is needed and too small.
    """
    _check_count(rows)
    size = base.size if isinstance(base, Stored) else base.numel()
    grams, square = np.empty((len(rows), len(rows))), ctypes.c_double()
    theta, sources = _sources(base, rows)
    target = grams.ctypes.data, ctypes.byref(square), SLICE, _scratch(base, rows, scratch)
    _raise(_compiled().inner_products(size, theta, len(rows), sources, *target), base, rows)
    return grams, square.value


def exact_products(
    base: Values | None, rows: Sequence[VectorSpan], scratch: Tensor | None = None
) -> Float[np.ndarray, "rows rows"]:
    """Computes ⟨Δ_i, Δ_j⟩ from deltas in float32, with exact products summed in float64.

    The error is about 1e-16 of ‖Δ_i‖‖Δ_j‖, and the time some twice that of `inner_products`. The
    bits depend neither on the kind of CPU nor on threads.

    Args:
        base: the base's elements as stored, (n,); None to subtract nothing.
        rows: at least one and at most MOST, (n,) each.
        scratch: as for weighted_sum.

    Returns:
        the inner products, (rows, rows).

    Raises:
        CheckpointError: if a file cannot be read.
        ValueError: for more than MOST rows, or if `scratch` is needed and too small.
    """
    _check_count(rows)
    first = rows[0].values
    size = first.size if isinstance(first, Stored) else first.numel()
    grams = np.empty((len(rows), len(rows)))
    theta, sources = _sources(base, rows)
    target = grams.ctypes.data, SLICE, _scratch(base, rows, scratch)
    _raise(_compiled().exact_products(size, theta, len(rows), sources, *target), base, rows)
    return grams


def all_finite(values: Tensor) -> bool:
    """Reports whether no element is infinite or NaN.

    Args:
        values: contiguous, in the CPU's memory, in one of DTYPES.
    """
    return bool(_compiled().all_finite(values.numel(), values.data_ptr(), DTYPES[values.dtype]))


def scratch_bytes(rows: int) -> int:
    """Returns the bytes of scratch that reading a base and this many rows from files needs."""
    return (rows + 1) * SLICE * 4


def _compiled() -> ctypes.CDLL:
    """Returns the compiled functions, which must be there."""
    compiled = library()
    assert compiled is not None, "ask reads() first"
    return compiled


def _check_count(rows: Sequence[VectorSpan]) -> None:
    """Refuses more rows than kernel.c has sums for: it would write past their end."""
    if len(rows) > MOST:
        raise ValueError(f"at most {MOST} rows at once, {len(rows)} given")


def _sources(base: Values | None, rows: Sequence[VectorSpan]) -> tuple[object, object]:
    """Returns the base, or None, and the rows as arguments of both C functions."""
    theta = None if base is None else ctypes.pointer(_Source.of(base))
    return theta, (_Source * len(rows))(*(_Source.of(*row) for row in rows))


def _scratch(base: Values | None, rows: Sequence[VectorSpan], scratch: Tensor | None) -> int | None:
    """Returns the address of the scratch after checking its size; None if nothing is in a file."""
    if not any(isinstance(values, Stored) for values in (base, *(row.values for row in rows))):
        return None
    if scratch is None or scratch.nbytes < scratch_bytes(len(rows)):
        raise ValueError(
            f"reading {len(rows)} rows from files takes a scratch of "
            f"{scratch_bytes(len(rows)):,} bytes"
        )
    return scratch.data_ptr()


def _raise(failed: int, base: Values | None, rows: Sequence[VectorSpan]) -> None:
    """Raises a CheckpointError with the name of the file that could not be read, if any."""
    # 0 for success, -1 for the base, k + 1 for row k; see all_reached in kernel.c.
    if failed:
        stored = base if failed < 0 else rows[failed - 1].values
        assert isinstance(stored, Stored)
        raise stored.read_error(ctypes.get_errno())
