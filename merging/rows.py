"""Pieces of base and vectors for arithmetic elsewhere: as they are stored where that can be read there, else as floats."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from merging.checkpoint import Weights, in_file, read_block
from merging.kernel import DTYPES, Row, Values
from merging.vector import Vector

Memory = Callable[[int], Tensor]
"""Bytes for a piece of the input of that number, at least four for each element; the same number, the same bytes."""
Reads = Callable[[Tensor], bool]
"""Whether values can be taken as they are stored."""


def deltas(
    name: str,
    span: tuple[int, int],
    base: Weights,
    vectors: Sequence[Vector],
    files: ExitStack,
    memory: Memory,
    scratch: Tensor,
) -> tuple[Values, list[Row]]:
    """A piece of a tensor of the base, as stored, and a row for each vector; one that leaves the tensor alone is 0.

    Args:
        name: of the tensor; of one of kernel.DTYPES in the base.
        span: the first element, and one past the last.
        base: Θ.
        vectors: in the order of the rows.
        files: keeps open what is not read here, until it is closed.
        memory: see Memory; of what is in no file, or not as it is stored.
        scratch: see merging.checkpoint.read_into.
    """
    theta: Values | None = in_file(base, name, *span, files)
    if theta is None:
        theta = read_block(base, name, *span, memory(len(vectors))).cpu().contiguous()
    given = enumerate(vectors)
    return theta, [delta(name, span, base, one, memory(number), scratch, files=files) for number, one in given]


def weights(
    name: str, span: tuple[int, int], vectors: Sequence[Vector], files: ExitStack, memory: Memory, scratch: Tensor
) -> list[Row]:
    """A piece of the fine-tuned weights of each vector; arguments as for deltas."""
    return [weight(name, span, one, memory(number), scratch, files=files) for number, one in enumerate(vectors)]


def by_the_kernel(values: Tensor) -> bool:
    """Whether the compiled loop can read them: in one of its dtypes, in this machine's memory."""
    return values.dtype in DTYPES and values.device.type == "cpu"


def delta(
    name: str,
    span: tuple[int, int],
    base: Weights,
    vector: Vector,
    memory: Tensor,
    scratch: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    reads: Reads = by_the_kernel,
    files: ExitStack | None = None,
) -> Row:
    """A piece of one vector: its fine-tuned weights as stored, where it is on this base, else differences in `dtype`.

    Args:
        name: of the tensor; a vector that leaves it alone is 0 there.
        span: the first element, and one past the last.
        base: Θ.
        vector: Δ_i.
        memory: bytes that the result may lie in, as many for each element as the widest dtype takes.
        scratch: see merging.checkpoint.read_into.
        dtype: of differences.
        reads: see Reads.
        files: if given, what can be read from its file stays there, open until it is closed.
    """
    row = _stored(name, span, vector, memory, reads, files) if name in vector and vector.base is base else None
    if row is None:
        values = _floats(memory, span, dtype)
        if name in vector:
            vector.read_delta(name, span[0], values, scratch)
        else:
            values.zero_()
        row = Row(values, difference=True)
    return row


def weight(
    name: str,
    span: tuple[int, int],
    vector: Vector,
    memory: Tensor,
    scratch: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    reads: Reads = by_the_kernel,
    files: ExitStack | None = None,
) -> Row:
    """A piece of the fine-tuned weights of one vector, as stored or in `dtype`; arguments as for delta."""
    row = _stored(name, span, vector, memory, reads, files) if name in vector else None
    if row is None:
        values = _floats(memory, span, dtype)
        vector.read_weights(name, span[0], values, scratch)
        row = Row(values, difference=False)
    return row


def _stored(
    name: str, span: tuple[int, int], vector: Vector, memory: Tensor, reads: Reads, files: ExitStack | None
) -> Row | None:
    there = None if files is None else vector.in_file(name, *span, files)
    if there is not None and there.dtype in DTYPES:
        return Row(there, difference=False)
    values = vector.as_stored(name, *span, memory)
    return None if values is None or not reads(values) else Row(values.contiguous(), difference=False)


def _floats(memory: Tensor, span: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return memory[: dtype.itemsize * (span[1] - span[0])].view(dtype)
