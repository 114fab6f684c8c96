"""Reads one span of the base and of each vector.

A span stays in its file or in its stored dtype if the consumer can read that. Otherwise it is
converted to floating-point numbers of the reader's dtype.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from merging.engine.kernel import DTYPES, Values, VectorSpan
from merging.inputs.checkpoint import Weights, in_file, read_block
from merging.inputs.vector import Vector


class Piece(NamedTuple):
    """A span of elements of one flattened tensor."""

    name: str
    """The tensor's name in the base's files."""
    start: int
    """The first element."""
    stop: int
    """One past the last element."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def by_the_kernel(values: Tensor) -> bool:
    """Reports whether the compiled loop can read values: its dtypes, in the CPU's memory."""
    return values.dtype in DTYPES and values.device.type == "cpu"


@dataclass(frozen=True)
class Reader:
    """How one thread reads pieces, and the memory into which it reads them.

    Attributes:
        scratch: uint8, for conversions; see merging.inputs.checkpoint.read_into.
        buffer: returns the memory for input `number`: uint8, with as many bytes per element as the
            widest dtype has, 4 or more. The same number gives the same memory.
        files: keeps the files open in which spans stay, until it is closed; None if no span may
            stay in a file.
        dtype: the floating-point dtype to which other values are converted.
        takes: reports whether the consumer can read values in their stored dtype.
    """

    scratch: Tensor
    buffer: Callable[[int], Tensor]
    files: ExitStack | None = None
    dtype: torch.dtype = torch.float32
    takes: Callable[[Tensor], bool] = by_the_kernel


def read_deltas(
    piece: Piece, base: Weights, vectors: Sequence[Vector], reader: Reader
) -> list[VectorSpan]:
    """Reads a piece of each vector, (n,) each, for a consumer that subtracts the base's values.

    Args:
        piece: its tensor has one of kernel.DTYPES in the base.
        base: Θ.
        vectors: in the order of the result; one that does not change the tensor gives zeros.
        reader: how to read.
    """
    return [
        read_delta(piece, base, vector, number, reader) for number, vector in enumerate(vectors)
    ]


def read_base(piece: Piece, base: Weights, number: int, reader: Reader) -> Values:
    """Reads a piece of the base, (n,), as stored.

    Args:
        piece: its tensor has one of kernel.DTYPES in the base.
        base: Θ.
        number: the reader's buffer in which the result may lie: one that no vector has.
        reader: how to read.
    """
    theta: Values | None = None if reader.files is None else in_file(base, *piece, reader.files)
    # The compiled loop reads by address, so the base must lie contiguously in the CPU's memory.
    if theta is None:
        theta = read_block(base, *piece, reader.buffer(number)).cpu().contiguous()
    return theta


def read_weights(piece: Piece, vectors: Sequence[Vector], reader: Reader) -> list[VectorSpan]:
    """Reads a piece of the fine-tuned weights of each vector, (n,) each."""
    return [read_weight(piece, vector, number, reader) for number, vector in enumerate(vectors)]


def read_delta(
    piece: Piece, base: Weights, vector: Vector, number: int, reader: Reader
) -> VectorSpan:
    """Reads a piece of one vector.

    Args:
        piece: the piece; the result is zeros if the vector does not change its tensor.
        base: Θ.
        vector: Δ_i.
        number: the reader's buffer in which the result may lie.
        reader: how to read.

    Returns:
        the fine-tuned weights as stored, (n,), if the vector is the difference of weights from
        this very base; otherwise its deltas, (n,), in the reader's dtype.
    """
    # Only for this very base can the consumer subtract the base's values that it has read anyway.
    span = (
        _stored(piece, vector, number, reader)
        if piece.name in vector and vector.base is base
        else None
    )
    if span is None:
        values = _floats(piece, number, reader)
        if piece.name in vector:
            vector.read_delta(piece.name, piece.start, values, reader.scratch)
        else:
            # Zeros, and not left out, because the consumer has one ω for each row.
            values.zero_()
        span = VectorSpan(values, difference=True)
    return span


def read_weight(piece: Piece, vector: Vector, number: int, reader: Reader) -> VectorSpan:
    """Reads a piece of one vector's fine-tuned weights, as stored or in the reader's dtype.

    The arguments are those of `read_delta`; the tensor's name must be in the base.
    """
    span = _stored(piece, vector, number, reader) if piece.name in vector else None
    if span is None:
        values = _floats(piece, number, reader)
        vector.read_weights(piece.name, piece.start, values, reader.scratch)
        span = VectorSpan(values, difference=False)
    return span


def fill_deltas(
    name: str, start: int, rows: Tensor, base: Weights, vectors: Sequence[Vector], scratch: Tensor
) -> None:
    """Reads the deltas of the vectors at one piece of a tensor into all rows but the first.

    A vector that does not change the tensor gives zeros.

    Args:
        name: the tensor's name.
        start: the piece's first element in the flattened tensor.
        rows: (1 + vectors, n), in the working dtype; the first row holds the base's values.
        base: Θ.
        vectors: in the order of the rows.
        scratch: uint8; see merging.inputs.checkpoint.read_into.
    """
    for row, vector in zip(rows[1:], vectors, strict=True):
        if name in vector:
            # A vector of a restacked model has a base of its own, whose values must be subtracted.
            vector.read_delta(name, start, row, scratch, rows[0] if vector.base is base else None)
        else:
            row.zero_()


def _stored(piece: Piece, vector: Vector, number: int, reader: Reader) -> VectorSpan | None:
    """Returns weights in their file or stored dtype; None if the consumer cannot read them."""
    # Left in its file if possible: the compiled loop then reads it slice by slice into the cache.
    stored = None if reader.files is None else vector.in_file(*piece, reader.files)
    if stored is not None and stored.dtype in DTYPES:
        return VectorSpan(stored, difference=False)
    values = vector.as_stored(*piece, reader.buffer(number))
    return (
        VectorSpan(values.contiguous(), difference=False)
        if values is not None and reader.takes(values)
        else None
    )


def _floats(piece: Piece, number: int, reader: Reader) -> Tensor:
    """Returns the start of a buffer as an (n,) tensor in the reader's dtype, not initialised."""
    return reader.buffer(number)[: reader.dtype.itemsize * piece.size].view(reader.dtype)
