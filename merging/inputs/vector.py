"""The distribution vector Δ_i = Θ_i − Θ (DEM, arXiv 2406.15570, equation 1), elsewhere called a task vector.

A vector is a mapping too, but of *differences*: it has a class of its own, so that a delta can never be passed where
weights are meant, which is how a merge comes out plausible and wrong.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from merging.dtypes import QUANTISED, working_dtype
from merging.errors import MismatchError
from merging.inputs.checkpoint import (
    Checkpoint,
    Stored,
    Weights,
    dtype_of,
    in_file,
    read_block,
    read_into,
    shape_of,
)
from merging.tensor_names import is_buffer, place
from plumbing.suggest import listed

PIECE = 2**18
"""Elements read at once."""


class Vector(Mapping[str, Tensor]):
    """Deltas under the base's tensor names, read one tensor or one block at a time.

    Only floating-point tensors that the vector can change are in it; all others come from the base.
    """

    name: str
    base: Weights
    """Θ, under whose names and shapes its tensors stand."""
    path: Path | None
    digest: str
    """SHA-256 of what it was made from; see Checkpoint.digest."""
    identity: str
    """The key of a cache of what was computed from it; see Checkpoint.identity."""
    AS_STORED = False
    """Whether as_stored has its tensors, or most of them, without computing anything."""

    @abstractmethod
    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of a flattened delta: float32, shape (stop − start,)."""

    @abstractmethod
    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """The same elements of the fine-tuned weights Θ_i themselves, in the working dtype."""

    def as_stored(self, name: str, start: int, stop: int, scratch: Tensor) -> Tensor | None:
        """Elements of Θ_i as they are stored, perhaps in `scratch`; None where they are stored in another form."""
        return None

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """Where elements of Θ_i are stored, see Checkpoint.in_file; None where they are in no file, or in another form."""
        return None

    def read_weights(self, name: str, start: int, out: Tensor, scratch: Tensor) -> None:
        """Elements of Θ_i from `start` on, as many as `out` has, into memory that is there.

        Args:
            name: of the tensor.
            start: the first element.
            out: 1-D, in the working dtype.
            scratch: bytes to read into; see merging.inputs.checkpoint.read_into.
        """
        out.copy_(self.weights_block(name, start, start + out.numel()))

    def read_delta(
        self, name: str, start: int, out: Tensor, scratch: Tensor, base: Tensor | None = None
    ) -> None:
        """Elements of Δ_i, likewise.

        Args:
            base: the same elements of this vector's own base in the working dtype, where they are at hand.
        """
        out.copy_(self.block(name, start, start + out.numel()))

    @cached_property
    def squared_length(self) -> float:
        """‖Δ‖² over the whole model, summed in float64; every tensor is read for it, once."""
        total = 0.0
        for name in self:
            size = math.prod(shape_of(self.base, name))
            for start in range(0, size, PIECE):
                values = self.block(name, start, min(start + PIECE, size)).double()
                total += float(values @ values)
        return total


class DistributionVector(Vector):
    """The difference of two sets of weights.

    Args:
        name: how sliders, recipes and tables call it.
        base: Θ.
        tuned: Θ_i, of the same names and shapes.

    Raises:
        MismatchError: naming the tensors that differ, and what to do.
    """

    AS_STORED = True

    def __init__(self, name: str, base: Weights, tuned: Weights) -> None:
        if isinstance(base, Vector) or isinstance(tuned, Vector):
            raise TypeError(
                "a distribution vector is made from two sets of weights; a vector of deltas was given"
            )
        self.name = name
        self.base = base
        self.tuned = tuned
        self.path = getattr(tuned, "path", None)
        self.digest = getattr(tuned, "digest", "")
        self.identity = getattr(tuned, "identity", "")
        self._source = _match(name, base, tuned)

    def __getitem__(self, name: str) -> Tensor:
        shape = shape_of(self.base, name)
        return self.block(name, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __contains__(self, name: object) -> bool:
        return name in self._source  # the mapping's own would read the tensor to find out

    def __len__(self) -> int:
        return len(self._source)

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of Θ_i − Θ, subtracted in the working dtype."""
        return self.weights_block(name, start, stop).sub_(read_block(self.base, name, start, stop))

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of Θ_i in the working dtype, in memory of their own."""
        stored = read_block(self.tuned, self._source[name], start, stop)
        return stored.to(working_dtype(dtype_of(self.base, name)), copy=True)

    def as_stored(self, name: str, start: int, stop: int, scratch: Tensor) -> Tensor | None:
        """See Vector."""
        return read_block(self.tuned, self._source[name], start, stop, scratch)

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """See Vector."""
        return in_file(self.tuned, self._source[name], start, stop, files)

    def read_weights(self, name: str, start: int, out: Tensor, scratch: Tensor) -> None:
        """See Vector: nothing but `out` and `scratch` is written."""
        read_into(self.tuned, self._source[name], start, out, scratch)

    def read_delta(
        self, name: str, start: int, out: Tensor, scratch: Tensor, base: Tensor | None = None
    ) -> None:
        """See Vector; the bits are those of `block`."""
        self.read_weights(name, start, out, scratch)
        out.sub_(read_block(self.base, name, start, start + out.numel()) if base is None else base)


def _match(vector: str, base: Weights, tuned: Weights) -> dict[str, str]:
    """For each tensor the vector can change, the name under which `tuned` stores it."""
    where = f"{vector} ({tuned.path})" if isinstance(tuned, Checkpoint) else vector
    changeable = [name for name in base if _changeable(base, name)]
    source = {name: name for name in changeable if name in tuned}
    missing = [name for name in changeable if name not in tuned]
    extra = [
        name
        for name in tuned
        if name not in base and not is_buffer(name, len(shape_of(tuned, name)))
    ]

    _same_shapes(where, base, tuned, source)
    unresolved = []
    for name in missing:
        twin = _twin(base, name, list(source))
        if twin is None:
            unresolved.append(name)
        else:
            source[name] = twin
    untied = [name for name in extra if _twin(tuned, name, list(source)) is None]
    if unresolved or untied:
        raise MismatchError(_unlike(where, len(source), unresolved, untied))
    return {name: source[name] for name in changeable}


def _changeable(base: Weights, name: str) -> bool:
    dtype = dtype_of(base, name)
    if dtype in QUANTISED:
        raise MismatchError(
            f"the base holds {name!r} in {dtype}: quantised weights cannot be merged. Give the full-precision model."
        )
    return dtype.is_floating_point and not is_buffer(name, len(shape_of(base, name)))


def _same_shapes(where: str, base: Weights, tuned: Weights, source: Mapping[str, str]) -> None:
    for name in source:
        given, expected = shape_of(tuned, name), shape_of(base, name)
        if given != expected:
            hint = (
                "The vocabularies differ: fine-tuning added tokens, or the tokenizer is another. Set dem.vocabulary in the "
                "recipe (base or union), or resize the checkpoint's embeddings to the base's first."
                if given[1:] == expected[1:] and place(name).part in ("embeddings", "head")
                else "It is not a fine-tune of this base. Choose the base that it was trained from."
            )
            raise MismatchError(
                f"{where}: tensor {name!r} has shape {_by(given)}, the base has {_by(expected)}. {hint}"
            )
        dtype = dtype_of(tuned, name)
        if dtype in QUANTISED or not dtype.is_floating_point:
            raise MismatchError(
                f"{where}: tensor {name!r} is stored as {str(dtype).removeprefix('torch.')}, the base as "
                f"{str(dtype_of(base, name)).removeprefix('torch.')}: quantised weights cannot be merged. "
                "Give the full-precision checkpoint."
            )


def _twin(weights: Weights, name: str, candidates: list[str]) -> str | None:
    """Another tensor with the very same values: the other end of a tie. Read only where a name is missing.

    Vectors and constants do not count: biases that are all zero and norms that are all one are equal without a tie.
    """
    shape, dtype = shape_of(weights, name), dtype_of(weights, name)
    if len(shape) < 2:
        return None
    probe = read_block(weights, name, 0, min(math.prod(shape), 2**12))
    for other in candidates:
        if (
            other in weights
            and (shape_of(weights, other), dtype_of(weights, other)) == (shape, dtype)
            and torch.equal(probe, read_block(weights, other, 0, len(probe)))
            and torch.equal(whole := weights[name], weights[other])
            and (whole != whole.flatten()[0]).any()
        ):
            return other
    return None


def _unlike(where: str, shared: int, missing: list[str], extra: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"it lacks {listed(missing, 3)}")
    if extra:
        parts.append(f"it has {listed(extra, 3)}, which the base lacks")
    head = all("head" in name or "embed" in name for name in missing + extra)
    hint = (
        "One of the two ties its output head to its embeddings and the other does not: save both the same way "
        "(tie_word_embeddings in config.json)."
        if head and shared
        else "It is another architecture or was saved by another tool. Choose the base that it was trained from."
    )
    return f"{where} does not have the base's tensors ({shared} are shared): {'; '.join(parts)}. {hint}"


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"
