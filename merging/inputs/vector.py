"""The distribution vector Δ_i = Θ_i − Θ (DEM, arXiv 2406.15570, equation 1), or task vector.

Like weights, a vector is a mapping from tensor names to tensors, but of *differences*. It has its
own class so that a delta is never passed where weights are meant: such a merge looks plausible and
is wrong.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from torch import Tensor

from merging.dtypes import working_dtype
from merging.inputs.checkpoint import (
    Stored,
    Weights,
    dtype_of,
    in_file,
    read_block,
    read_into,
    shape_of,
)
from merging.inputs.digest import Digested
from merging.inputs.matching import match_names, renamed
from merging.inputs.weight_files import module_notes

PIECE = 2**18
"""Elements that `squared_lengths` reads at once."""


class Vector(Digested, Mapping[str, Tensor]):
    """Deltas under the base's tensor names, read one tensor or one block at a time.

    It contains only floating-point tensors that the vector can change. A merge takes all other
    tensors from the base.

    Attributes:
        name: its name in sliders, recipes and tables.
        base: Θ; the deltas have its tensor names and shapes.
        path: its folder; None if it has none.
        notes: what the user should know of how it was read, such as renamed tensors.
        AS_STORED: whether `as_stored` returns most of its tensors without computing anything.
    """

    name: str
    base: Weights
    path: Path | None
    notes: tuple[str, ...] = ()
    AS_STORED = False

    @abstractmethod
    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements `start` to `stop` of a flattened delta: shape (stop − start,).

        Its dtype is the working dtype: float32, or float64 if the base's tensor is float64.
        """

    @abstractmethod
    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns the same elements of the fine-tuned weights Θ_i, in the working dtype."""

    def as_stored(self, name: str, start: int, stop: int, scratch: Tensor) -> Tensor | None:
        """Returns elements of Θ_i in their stored dtype, perhaps in `scratch`.

        None if Θ_i itself is not stored, as for an adapter.
        """
        return None

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """Returns the span of elements of Θ_i in an open file; see Checkpoint.in_file.

        None if no file holds these weights as they are.
        """
        return None

    def read_weights(self, name: str, start: int, out: Tensor, scratch: Tensor) -> None:
        """Fills `out` with elements of Θ_i, from element `start` on.

        Args:
            name: the tensor.
            start: the first element.
            out: 1-D, in the working dtype; its length is the number of elements.
            scratch: a uint8 buffer for reading; see merging.inputs.checkpoint.read_into.
        """
        out.copy_(self.weights_block(name, start, start + out.numel()))

    def read_delta(
        self, name: str, start: int, out: Tensor, scratch: Tensor, base: Tensor | None = None
    ) -> None:
        """Fills `out` with elements of Δ_i; see read_weights.

        Args:
            base: the same elements of this vector's base in the working dtype; read if not given.
        """
        out.copy_(self.block(name, start, start + out.numel()))

    @cached_property
    def squared_lengths(self) -> dict[str, float]:
        """‖Δ‖² of each tensor, summed in float64. The first use reads every tensor once."""
        lengths = {}
        for name in self:
            size, total = math.prod(shape_of(self.base, name)), 0.0
            for start in range(0, size, PIECE):
                values = self.block(name, start, min(start + PIECE, size)).double()
                total += float(values @ values)
            lengths[name] = total
        return lengths


class DistributionVector(Vector):
    """The distribution vector of a full fine-tuned checkpoint.

    Args:
        name: its name in sliders, recipes and tables.
        base: Θ.
        tuned: Θ_i, with the same tensors: the same shapes, and names that one renaming makes the
            same.

    Raises:
        MismatchError: if names, shapes or dtypes do not fit. The message names the tensors.
        TypeError: if one of the two is a vector, not weights.
    """

    AS_STORED = True

    def __init__(self, name: str, base: Weights, tuned: Weights) -> None:
        if isinstance(base, Vector) or isinstance(tuned, Vector):
            raise TypeError(
                "a distribution vector is made from two sets of weights; a vector of deltas was "
                "given"
            )
        self.name = name
        self.base = base
        where = name if (path := getattr(tuned, "path", None)) is None else f"{name} ({path})"
        self.tuned = renamed(where, tuned, base)
        self.path = path
        self._opened = tuned  # `tuned` itself may later be replaced by the same weights in memory
        if note := getattr(self.tuned, "renaming", ""):
            self.notes = (f"its tensors were matched to the base's by renaming: {note}.",)
        self.notes += module_notes(base, tuned)
        # A tensor may have another name in `tuned`: the other end of a tie.
        self._source = match_names(name, base, self.tuned)

    def __getitem__(self, name: str) -> Tensor:
        shape = shape_of(self.base, name)
        return self.block(name, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __contains__(self, name: object) -> bool:
        return name in self._source  # Mapping's own test would read the tensor

    def __len__(self) -> int:
        return len(self._source)

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of Θ_i − Θ, subtracted in the working dtype."""
        return self.weights_block(name, start, stop).sub_(read_block(self.base, name, start, stop))

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of Θ_i in the working dtype, in new memory."""
        stored = read_block(*self._where(name), start, stop)
        return stored.to(working_dtype(dtype_of(self.base, name)), copy=True)

    def source(self, name: str) -> str:
        """Returns the name in `tuned` of the tensor that this vector changes."""
        return self._source[name]

    def _where(self, name: str) -> tuple[Weights, str]:
        """Returns the weights that hold Θ_i's tensor: the base's for a module that Θ_i lacks."""
        return (self.tuned, self._source[name]) if name in self._source else (self.base, name)

    def as_stored(self, name: str, start: int, stop: int, scratch: Tensor) -> Tensor | None:
        """Returns elements of Θ_i in their stored dtype; see Vector.as_stored."""
        return read_block(self.tuned, self._source[name], start, stop, scratch)

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """Returns the span of elements of Θ_i in an open file; see Vector.in_file."""
        return in_file(self.tuned, self._source[name], start, stop, files)

    def read_weights(self, name: str, start: int, out: Tensor, scratch: Tensor) -> None:
        """Fills `out` with elements of Θ_i without allocating; see Vector.read_weights."""
        read_into(*self._where(name), start, out, scratch)

    def read_delta(
        self, name: str, start: int, out: Tensor, scratch: Tensor, base: Tensor | None = None
    ) -> None:
        """Fills `out` with elements of Δ_i: the same bits as `block`; see Vector.read_delta."""
        self.read_weights(name, start, out, scratch)
        out.sub_(read_block(self.base, name, start, start + out.numel()) if base is None else base)
