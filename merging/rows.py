"""Pieces of base and vectors as the compiled loop takes them: as stored where that can be, else in float32."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from merging.checkpoint import Weights, read_block
from merging.kernel import DTYPES, Row
from merging.vector import Vector

Memory = Callable[[int], Tensor]
"""Bytes for a piece of the input of that number, at least four for each element; the same number, the same bytes."""


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
    rows = []
    for number, vector in enumerate(vectors):
        row = weights_as_stored(name, span, vector, memory(number)) if name in vector and vector.base is base else None
        if row is None:
            values = _floats(memory(number), span)
            if name in vector:
                vector.read_delta(name, span[0], values, scratch)
            else:
                values.zero_()
            row = Row(values, difference=True)
        rows.append(row)
    return theta, rows


def weights(name: str, span: tuple[int, int], vectors: Sequence[Vector], memory: Memory, scratch: Tensor) -> list[Row]:
    """A piece of the fine-tuned weights of each vector; arguments as for deltas."""
    rows = []
    for number, vector in enumerate(vectors):
        row = weights_as_stored(name, span, vector, memory(number)) if name in vector else None
        if row is None:
            row = Row(_floats(memory(number), span), difference=False)
            vector.read_weights(name, span[0], row.values, scratch)
        rows.append(row)
    return rows


def weights_as_stored(name: str, span: tuple[int, int], vector: Vector, memory: Tensor) -> Row | None:
    """A piece of the fine-tuned weights of a vector that holds them in one of kernel.DTYPES, in this machine's memory."""
    values = vector.as_stored(name, *span, memory)
    if values is None or values.dtype not in DTYPES or values.device.type != "cpu":
        return None
    return Row(values.contiguous(), difference=False)


def _floats(memory: Tensor, span: tuple[int, int]) -> Tensor:
    size = span[1] - span[0]
    return memory[: 4 * size].view(torch.float32)
