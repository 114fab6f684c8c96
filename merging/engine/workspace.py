"""Workspace: the memory that one thread reuses for one piece after the other."""

from contextlib import ExitStack

import torch
from torch import Tensor

from merging.engine import kernel, pieces

PIECE = 2**20
"""Elements that a thread takes at once: computed in blocks, or by the compiled loop in slices."""


class Workspace:
    """Memory that one thread reuses for every piece: fresh pages cost more than the arithmetic.

    Args:
        most: elements of the largest piece. Larger ones get memory of their own, which is freed.

    Attributes:
        scratch: uint8, for conversions; see merging.inputs.checkpoint.read_into.
    """

    def __init__(self, most: int = PIECE) -> None:
        self._most = most
        # 8 bytes for each element, as read_into counts, so that it reads a piece in one go.
        self.scratch = torch.empty(8 * most, dtype=torch.uint8)
        self._kept = torch.empty(0, dtype=torch.uint8)
        self._inputs: list[Tensor] = []

    def rows(self, count: int, size: int, dtype: torch.dtype) -> Tensor:
        """Returns an uninitialised (count, size) tensor; the next call may reuse its memory."""
        nbytes = count * size * dtype.itemsize
        # A tensor that must be whole may be the largest of the model: do not keep its memory.
        if size > self._most:
            return torch.empty(count, size, dtype=dtype)
        if self._kept.numel() < nbytes:
            self._kept = torch.empty(nbytes, dtype=torch.uint8)
        return self._kept[:nbytes].view(dtype).view(count, size)

    def slices(self, rows: int) -> Tensor:
        """Returns the memory into which the compiled loop reads a base and `rows` vectors.

        It is taken from the same memory as `rows()`.
        """
        return self.rows(rows + 1, kernel.SLICE, torch.float32)

    def reader(self, files: ExitStack) -> pieces.Reader:
        """Returns a reader into this memory; what the compiled loop can read stays in `files`."""
        return pieces.Reader(self.scratch, self._input, files)

    def _input(self, number: int) -> Tensor:
        """Returns the buffer of one input; see merging.engine.pieces.Reader."""
        # Each input has memory of its own, because the pieces of all inputs are needed together.
        while len(self._inputs) <= number:
            self._inputs.append(torch.empty(4 * self._most, dtype=torch.uint8))
        return self._inputs[number]
