"""Pieces of base and vectors for arithmetic elsewhere: as they are stored where that can be read there, else as floats."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from merging.checkpoint import Weights, read_block
from merging.kernel import DTYPES, Row
from merging.vector import Vector

Memory = Callable[[int], Tensor]
"""Bytes for a piece of the input of that number, at least four for each element; the same number, the same bytes."""
Reads = Callable[[Tensor], bool]
"""Whether values can be taken as they are stored."""


def deltas(
    name: str, span: tuple[int, int], base: Weights, vectors: Sequence[Vector], memory: Memory, scratch: Tensor
) -> tuple[Tensor, list[Row]]:
    """A piece of a tensor of the base, as stored, and a row for each vector; one that leaves the tensor alone is 0.

    Args:
        name: of the tensor; of one of kernel.DTYPES in the base.
        span: the first element, and one past the last.
        base: Θ.
        vectors: in the order of the rows.
        memory: see Memory.
        scratch: see merging.checkpoint.read_into.
    """
    theta = read_block(base, name, *span, memory(len(vectors))).cpu().contiguous()
    return theta, [delta(name, span, base, one, memory(number), scratch) for number, one in enumerate(vectors)]


def weights(name: str, span: tuple[int, int], vectors: Sequence[Vector], memory: Memory, scratch: Tensor) -> list[Row]:
    """A piece of the fine-tuned weights of each vector; arguments as for deltas."""
    return [weight(name, span, one, memory(number), scratch) for number, one in enumerate(vectors)]


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
    """
    row = _stored(name, span, vector, memory, reads) if name in vector and vector.base is base else None
    if row is None:
        row = Row(_floats(memory, span, dtype), difference=True)
        if name in vector:
            vector.read_delta(name, span[0], row.values, scratch)
        else:
            row.values.zero_()
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
) -> Row:
    """A piece of the fine-tuned weights of one vector, as stored or in `dtype`; arguments as for delta."""
    row = _stored(name, span, vector, memory, reads) if name in vector else None
    if row is None:
        row = Row(_floats(memory, span, dtype), difference=False)
        vector.read_weights(name, span[0], row.values, scratch)
    return row


def _stored(name: str, span: tuple[int, int], vector: Vector, memory: Tensor, reads: Reads) -> Row | None:
    values = vector.as_stored(name, *span, memory)
    return None if values is None or not reads(values) else Row(values.contiguous(), difference=False)


def _floats(memory: Tensor, span: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return memory[: dtype.itemsize * (span[1] - span[0])].view(dtype)
