"""A distribution vector saved on its own: its deltas as safetensors, used again on this base or on another of its shapes.

The folder holds `delta.safetensors`, the deltas under the base's tensor names, `vector.json`, what they are, and the
manifest that `dem verify` reads. In float32 the deltas are the very ones that a merge computes from the checkpoints
(float64 where the base is), so that a saved vector merges to the same bits.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from merging.dtypes import DTYPES, working_dtype
from merging.errors import CheckpointError, MismatchError
from merging.inputs.checkpoint import Checkpoint, Weights, dtype_of, in_memory, read_block, shape_of
from merging.inputs.header import read_json
from merging.inputs.vector import Vector
from merging.paths import DELTAS, exists

FACTS = "vector.json"


FORMAT = 1


class VectorFacts(NamedTuple):
    """What vector.json says."""

    name: str
    base: str
    """The digest of the base that it was made on; empty where that was no folder."""
    tuned: str
    """The digest of what it was made from."""
    dtype: str
    error: float
    """‖saved − Δ‖ / ‖Δ‖ over all tensors: 0 for float32."""
    version: str
    format: int = FORMAT


def is_saved_vector(path: str | Path) -> bool:
    """Whether a folder holds a vector that was saved on its own."""
    return exists(Path(path) / DELTAS)


class SavedVector(Vector):
    """A vector read back from its folder, lazily, on a base of the same names and shapes.

    Args:
        path: the folder that save_vector made.
        base: Θ: the one it was made on, or another; see `foreign_base`.
        name: how sliders, recipes and tables call it; the folder's name if not given.

    Raises:
        CheckpointError: when the folder is not one that save_vector made.
        MismatchError: naming the tensor that the base lacks or has in another shape.
    """

    def __init__(self, path: str | Path, base: Weights, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.resolve().name
        self.base = base
        self.facts = _read_facts(self.path / FACTS)
        stored = Checkpoint(self.path, file=DELTAS)
        self.stored: Weights = stored
        self.digest = stored.digest
        self.identity = stored.identity
        for tensor in stored:
            _fits(f"{self.name} ({self.path})", tensor, stored, base)

    @property
    def foreign_base(self) -> bool:
        """Whether the base is another than the one it was made on, as far as both are known."""
        ours = getattr(self.base, "digest", "")
        return bool(ours and self.facts.base and ours != self.facts.base)

    def hold_in_memory(self) -> None:
        """Read the deltas once and keep them in RAM."""
        self.stored = in_memory(self.stored)

    def __getitem__(self, name: str) -> Tensor:
        return self.block(name, 0, math.prod(shape_of(self.base, name))).view(
            shape_of(self.base, name)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.stored  # the mapping's own would read the tensor to find out

    def __len__(self) -> int:
        return len(self.stored)

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of the saved delta in the base's working dtype, in memory of their own."""
        stored = read_block(self.stored, name, start, stop)
        return stored.to(working_dtype(dtype_of(self.base, name)), copy=True)

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of Θ + Δ in the working dtype: the fine-tuned weights, but for the rounding of the difference."""
        base = read_block(self.base, name, start, stop).to(
            working_dtype(dtype_of(self.base, name)), copy=True
        )
        return base.add_(self.block(name, start, stop)) if name in self.stored else base


def _fits(where: str, name: str, stored: Checkpoint, base: Weights) -> None:
    if name not in base:
        raise MismatchError(
            f"{where} changes {name!r}, which the base lacks. A saved vector goes on a base of the same tensors; "
            "choose the one it was made on."
        )
    given, expected = shape_of(stored, name), shape_of(base, name)
    if given != expected:
        raise MismatchError(
            f"{where}: the delta of {name!r} has shape {list(given)}, the base has {list(expected)}. A saved vector goes on "
            "a base of the same shapes; choose the one it was made on."
        )
    dtypes = dtype_of(stored, name), dtype_of(base, name)
    if any(dtype not in DTYPES.values() for dtype in dtypes):
        raise MismatchError(
            f"{where}: the delta of {name!r} is stored as {dtypes[0]}, the base's tensor as {dtypes[1]}; expected "
            f"{', '.join(DTYPES)} of both."
        )


def _read_facts(file: Path) -> VectorFacts:
    document: Any = read_json(file)
    kinds: Mapping[str, Any] = VectorFacts.__annotations__
    if not isinstance(document, dict) or set(document) != set(kinds):
        raise CheckpointError(
            f"{file} is not what `dem vector` writes: expected the keys {', '.join(kinds)}."
        )
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{file}: format is {document['format']!r}, this version reads {FORMAT}: update to open it."
        )
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise CheckpointError(
                f"{file}: {key} is {repr(document[key])[:80]}, expected {kind.__name__}."
            )
    return VectorFacts(**document)
