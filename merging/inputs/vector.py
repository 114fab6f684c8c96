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
"""Elements that `squared_length` reads at once."""


class Vector(Mapping[str, Tensor]):
    """Deltas under the base's tensor names, read one tensor or one block at a time.

    It contains only floating-point tensors that the vector can change. A merge takes all other
    tensors from the base.

    Attributes:
        name: its name in sliders, recipes and tables.
        base: Θ; the deltas have its tensor names and shapes.
        path: its folder; None if it has none.
        digest: SHA-256 of the weights that it was made from; see Checkpoint.digest.
        identity: the key of caches of anything computed from it; see Checkpoint.identity.
        AS_STORED: whether `as_stored` returns most of its tensors without computing anything.
    """

    name: str
    base: Weights
    path: Path | None
    digest: str
    identity: str
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
    def squared_length(self) -> float:
        """‖Δ‖² over the whole model, summed in float64. The first use reads every tensor once."""
        total = 0.0
        for name in self:
            size = math.prod(shape_of(self.base, name))
            for start in range(0, size, PIECE):
                values = self.block(name, start, min(start + PIECE, size)).double()
                total += float(values @ values)
        return total


class DistributionVector(Vector):
    """The distribution vector of a full fine-tuned checkpoint.

    Args:
        name: its name in sliders, recipes and tables.
        base: Θ.
        tuned: Θ_i, with the same tensor names and shapes.

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
        self.tuned = tuned
        self.path = getattr(tuned, "path", None)
        self.digest = getattr(tuned, "digest", "")
        self.identity = getattr(tuned, "identity", "")
        # A tensor may have another name in `tuned`: the other end of a tie.
        self._source = _match(name, base, tuned)

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
        stored = read_block(self.tuned, self._source[name], start, stop)
        return stored.to(working_dtype(dtype_of(self.base, name)), copy=True)

    def as_stored(self, name: str, start: int, stop: int, scratch: Tensor) -> Tensor | None:
        """Returns elements of Θ_i in their stored dtype; see Vector.as_stored."""
        return read_block(self.tuned, self._source[name], start, stop, scratch)

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """Returns the span of elements of Θ_i in an open file; see Vector.in_file."""
        return in_file(self.tuned, self._source[name], start, stop, files)

    def read_weights(self, name: str, start: int, out: Tensor, scratch: Tensor) -> None:
        """Fills `out` with elements of Θ_i without allocating; see Vector.read_weights."""
        read_into(self.tuned, self._source[name], start, out, scratch)

    def read_delta(
        self, name: str, start: int, out: Tensor, scratch: Tensor, base: Tensor | None = None
    ) -> None:
        """Fills `out` with elements of Δ_i: the same bits as `block`; see Vector.read_delta."""
        self.read_weights(name, start, out, scratch)
        out.sub_(read_block(self.base, name, start, start + out.numel()) if base is None else base)


def _match(vector: str, base: Weights, tuned: Weights) -> dict[str, str]:
    """Returns for each tensor that the vector can change the name that it has in `tuned`.

    Raises:
        MismatchError: if names, shapes or dtypes do not fit.
    """
    where = f"{vector} ({tuned.path})" if isinstance(tuned, Checkpoint) else vector
    changeable = [name for name in base if _changeable(base, name)]
    source = {name: name for name in changeable if name in tuned}
    missing = [name for name in changeable if name not in tuned]
    extra = [
        name
        for name in tuned
        if name not in base and not is_buffer(name, len(shape_of(tuned, name)))
    ]

    _check_shapes(where, base, tuned, source)
    # A tied head may be stored in one of the two models and left out in the other. That is fine if
    # the stored one has a twin: another tensor with exactly the same values.
    unresolved = []
    for name in missing:
        twin = _twin(base, name, list(source))
        if twin is None:
            unresolved.append(name)
        else:
            source[name] = twin
    untied = [name for name in extra if _twin(tuned, name, list(source)) is None]
    if unresolved or untied:
        raise MismatchError(_explain_names(where, len(source), unresolved, untied))
    return {name: source[name] for name in changeable}


def _changeable(base: Weights, name: str) -> bool:
    """Returns whether a tensor of the base is a weight: floating-point, and not a constant."""
    dtype = dtype_of(base, name)
    if dtype in QUANTISED:
        raise MismatchError(
            f"the base holds {name!r} in {dtype}: quantised weights cannot be merged. Give the "
            "full-precision model."
        )
    return dtype.is_floating_point and not is_buffer(name, len(shape_of(base, name)))


def _check_shapes(where: str, base: Weights, tuned: Weights, source: Mapping[str, str]) -> None:
    """Raises an error for the first tensor whose shape or dtype does not fit the base's."""
    for name in source:
        shape, expected = shape_of(tuned, name), shape_of(base, name)
        if shape != expected:
            hint = (
                "The vocabularies differ: fine-tuning added tokens, or the checkpoint has another "
                "tokenizer. Set dem.vocabulary in the recipe (base or union), or first resize the "
                "checkpoint's embeddings to the base's."
                if shape[1:] == expected[1:] and place(name).part in ("embeddings", "head")
                else "It is not a fine-tune of this base. Choose the base that it was trained from."
            )
            raise MismatchError(
                f"{where}: tensor {name!r} has shape {_format_shape(shape)}, the base has "
                f"{_format_shape(expected)}. {hint}"
            )
        dtype = dtype_of(tuned, name)
        if dtype in QUANTISED or not dtype.is_floating_point:
            raise MismatchError(
                f"{where}: tensor {name!r} is stored as {str(dtype).removeprefix('torch.')}, the "
                f"base as {str(dtype_of(base, name)).removeprefix('torch.')}: quantised weights "
                "cannot be merged. Give the full-precision checkpoint."
            )


def _twin(weights: Weights, name: str, candidates: list[str]) -> str | None:
    """Returns a candidate with exactly the same values: the other end of a tie. None if none.

    One-dimensional and constant tensors do not count: biases that are all zero and norms that are
    all one are equal without a tie. Called only if a name is missing, since it reads weights.
    """
    shape, dtype = shape_of(weights, name), dtype_of(weights, name)
    if len(shape) < 2:
        return None
    # A few thousand elements rule out nearly all candidates before a whole matrix is read.
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


def _explain_names(where: str, shared: int, missing: list[str], extra: list[str]) -> str:
    """Returns the message for a checkpoint whose tensor names differ from the base's."""
    parts = []
    if missing:
        parts.append(f"it lacks {listed(missing, 3)}")
    if extra:
        parts.append(f"it has {listed(extra, 3)}, which the base lacks")
    head = all("head" in name or "embed" in name for name in missing + extra)
    hint = (
        "One of the two ties its output head to its embeddings and the other does not: save both "
        "the same way (tie_word_embeddings in config.json)."
        if head and shared
        else "It has another architecture or was saved by another tool. Choose the base that it "
        "was trained from."
    )
    differences = "; ".join(parts)
    return f"{where} does not have the base's tensors ({shared} are shared): {differences}. {hint}"


def _format_shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"
