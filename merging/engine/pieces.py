"""Reads one span of the base and of each vector.

A span stays in its file, or in its stored dtype, if whoever consumes it can read that; otherwise it is converted to floats.
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
    """The tensor's, in the base's files."""
    start: int
    """The first element."""
    stop: int
    """One past the last element."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def by_the_kernel(values: Tensor) -> bool:
    """Whether the compiled loop can read values: in one of its dtypes, in this machine's memory."""
    return values.dtype in DTYPES and values.device.type == "cpu"


@dataclass(frozen=True)
class Reader:
    """How one thread reads pieces, and the memory that it reads them into.

    Attributes:
        scratch: uint8, for conversions; see merging.inputs.checkpoint.read_into.
        buffer: returns the memory for input `number`: uint8, as many bytes per element as the widest dtype has, 4 or
            more. The same number gives the same memory.
        files: keeps the files open in which spans are left, until it is closed; None to leave nothing in files.
        dtype: of the floats that everything else is converted to.
        takes: whether the consumer can read values as they are stored.
    """

    scratch: Tensor
    buffer: Callable[[int], Tensor]
    files: ExitStack | None = None
    dtype: torch.dtype = torch.float32
    takes: Callable[[Tensor], bool] = by_the_kernel


def read_deltas(
    piece: Piece, base: Weights, vectors: Sequence[Vector], reader: Reader
) -> tuple[Values, list[VectorSpan]]:
    """A piece of the base, as stored, and of each vector; a vector that leaves the tensor alone is 0.

    Args:
        piece: of a tensor that has one of kernel.DTYPES in the base.
        base: Θ.
        vectors: in the order of the result.
        reader: with files.

    Returns:
        the base's values, (n,), and a span for each vector, (n,).
    """
    theta: Values | None = None if reader.files is None else in_file(base, *piece, reader.files)
    if theta is None:
        theta = read_block(base, *piece, reader.buffer(len(vectors))).cpu().contiguous()
    return theta, [
        read_delta(piece, base, vector, number, reader) for number, vector in enumerate(vectors)
    ]


def read_weights(piece: Piece, vectors: Sequence[Vector], reader: Reader) -> list[VectorSpan]:
    """A piece of the fine-tuned weights of each vector, (n,) each."""
    return [read_weight(piece, vector, number, reader) for number, vector in enumerate(vectors)]


def read_delta(
    piece: Piece, base: Weights, vector: Vector, number: int, reader: Reader
) -> VectorSpan:
    """A piece of one vector: fine-tuned weights as stored if it is a vector on this base, else differences as floats.

    Args:
        piece: of a tensor; a vector that leaves the tensor alone is 0 there.
        base: Θ.
        vector: Δ_i.
        number: of the reader's buffer that the result may lie in.
        reader: see there.
    """
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
            values.zero_()
        span = VectorSpan(values, difference=True)
    return span


def read_weight(piece: Piece, vector: Vector, number: int, reader: Reader) -> VectorSpan:
    """A piece of the fine-tuned weights of one vector, as stored or as floats; arguments as of `read_delta`."""
    span = _stored(piece, vector, number, reader) if piece.name in vector else None
    if span is None:
        values = _floats(piece, number, reader)
        vector.read_weights(piece.name, piece.start, values, reader.scratch)
        span = VectorSpan(values, difference=False)
    return span


def _stored(piece: Piece, vector: Vector, number: int, reader: Reader) -> VectorSpan | None:
    there = None if reader.files is None else vector.in_file(*piece, reader.files)
    if there is not None and there.dtype in DTYPES:
        return VectorSpan(there, difference=False)
    values = vector.as_stored(*piece, reader.buffer(number))
    return (
        VectorSpan(values.contiguous(), difference=False)
        if values is not None and reader.takes(values)
        else None
    )


def _floats(piece: Piece, number: int, reader: Reader) -> Tensor:
    return reader.buffer(number)[: reader.dtype.itemsize * piece.size].view(reader.dtype)
