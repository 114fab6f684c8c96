"""A distribution vector saved on its own, to be used on its base or on another base of its shapes.

The folder holds `delta.safetensors` (the deltas under the base's tensor names), `vector.json`
(where they come from), and the manifest that `dem verify` reads. Saved in float32, the deltas are
exactly those that a merge computes from the checkpoints (float64 if the base is float64), so a
saved vector merges to the same bits.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from merging.dtypes import DTYPES, working_dtype
from merging.errors import CheckpointError, MismatchError
from merging.inputs.checkpoint import Checkpoint, Weights, dtype_of, in_memory, read_block, shape_of
from merging.inputs.matching import renamed
from merging.inputs.sampled_digest import digest_like
from merging.inputs.strict_json import check_types, read_json
from merging.inputs.vector import Vector
from merging.paths import DELTAS, exists

FACTS = "vector.json"


FORMAT = 1


class VectorFacts(NamedTuple):
    """The content of vector.json.

    Attributes:
        name: the vector's name when it was saved.
        base: the digest of its base; empty if the base was not a folder.
        tuned: the digest of the checkpoint, adapter or vector that it was made from.
        dtype: the dtype of the saved deltas.
        error: ‖saved − Δ‖ / ‖Δ‖ over all tensors; 0 for float32.
        version: the version of this package that saved it.
        format: the version of this format.
    """

    name: str
    base: str
    tuned: str
    dtype: str
    error: float
    version: str
    format: int = FORMAT


def is_saved_vector(path: str | Path) -> bool:
    """Returns whether a folder holds a saved distribution vector."""
    return exists(Path(path) / DELTAS)


class SavedVector(Vector):
    """A saved vector, read lazily, on a base with the same tensors; names may be renamed.

    Args:
        path: the folder that save_vector made.
        base: Θ: its own base, or another one; see `foreign_base`.
        name: its name in sliders, recipes and tables; the folder's name if not given.

    Raises:
        CheckpointError: if save_vector did not make this folder.
        MismatchError: if the base lacks one of its tensors or has it in another shape.
    """

    def __init__(self, path: str | Path, base: Weights, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.resolve().name
        self.base = base
        self.facts = _read_facts(self.path / FACTS)
        opened = Checkpoint(self.path, file=DELTAS)
        self._opened = opened  # `stored` itself may later be the same deltas in memory
        where = f"{self.name} ({self.path})"
        # A vector may have been saved from an adapter, so it need not hold a whole model.
        stored: Weights = renamed(where, opened, base, whole=False)
        if note := getattr(stored, "renaming", ""):
            self.notes = (f"its deltas were matched to the base's tensors by renaming: {note}.",)
        self.stored = stored
        # Names and shapes are checked on opening, so that no merge fails after reading gigabytes.
        for tensor in stored:
            _check_fit(where, tensor, stored, base)

    @property
    def base_digest(self) -> str:
        """The digest of the base that it is read on, of the kind that vector.json has.

        Empty if the base is in memory.
        """
        base = self.base
        return digest_like(self.facts.base, base) if isinstance(base, Checkpoint) else ""

    @property
    def foreign_base(self) -> bool:
        """Whether the base differs from the vector's own base; False if a digest is unknown."""
        # A base in memory has no digest, and a warning without evidence would be noise.
        return bool(self.facts.base) and self.base_digest not in ("", self.facts.base)

    def hold_in_memory(self) -> None:
        """Reads all deltas and keeps them in RAM."""
        self.stored = in_memory(self.stored)

    def __getitem__(self, name: str) -> Tensor:
        return self.block(name, 0, math.prod(shape_of(self.base, name))).view(
            shape_of(self.base, name)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.stored  # Mapping's own test would read the tensor

    def __len__(self) -> int:
        return len(self.stored)

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of the saved delta in the working dtype, in new memory."""
        stored = read_block(self.stored, name, start, stop)
        return stored.to(working_dtype(dtype_of(self.base, name)), copy=True)

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of Θ + Δ in the working dtype.

        They are the fine-tuned weights up to the rounding of the difference.
        """
        # copy=True, because a base in memory of this dtype would otherwise be changed in place.
        base = read_block(self.base, name, start, stop).to(
            working_dtype(dtype_of(self.base, name)), copy=True
        )
        return base.add_(self.block(name, start, stop)) if name in self.stored else base


def _check_fit(where: str, name: str, stored: Weights, base: Weights) -> None:
    """Raises an error if the base's tensor `name` does not fit the saved delta."""
    if name not in base:
        raise MismatchError(
            f"{where} changes {name!r}, which the base lacks. A saved vector needs a base with the "
            "same tensors; choose the base that it was made on."
        )
    shape, expected = shape_of(stored, name), shape_of(base, name)
    if shape != expected:
        raise MismatchError(
            f"{where}: the delta of {name!r} has shape {list(shape)}, the base has "
            f"{list(expected)}. A saved vector needs a base with the same shapes; choose the base "
            "that it was made on."
        )
    dtypes = dtype_of(stored, name), dtype_of(base, name)
    if any(dtype not in DTYPES.values() for dtype in dtypes):
        raise MismatchError(
            f"{where}: the delta of {name!r} is stored as {dtypes[0]}, the base's tensor as "
            f"{dtypes[1]}; expected one of {', '.join(DTYPES)} for both."
        )


def _read_facts(file: Path) -> VectorFacts:
    """Reads vector.json strictly: exactly its keys, each of its type."""
    document: Any = read_json(file)
    kinds: Mapping[str, Any] = VectorFacts.__annotations__
    if not isinstance(document, dict) or set(document) != set(kinds):
        raise CheckpointError(
            f"{file} is not what `dem vector` writes: expected the keys {', '.join(kinds)}."
        )
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{file}: format is {document['format']!r}, this version reads {FORMAT}. Update this "
            "program to open the file."
        )
    check_types(document, kinds, str(file))
    return VectorFacts(**document)
