"""A distribution vector saved on its own: its deltas as safetensors, used again on this base or on another of its shapes.

The folder holds `delta.safetensors`, the deltas under the base's tensor names, `vector.json`, what they are, and the
manifest that `dem verify` reads. In float32 the deltas are the very ones that a merge computes from the checkpoints
(float64 where the base is), so that a saved vector merges to the same bits.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.checkpoint import DELTAS, Checkpoint, Weights, dtype_of, exists, in_memory, read_block, shape_of
from merging.errors import CheckpointError, ExportError, MismatchError, nearest
from merging.export import all_finite, header_of
from merging.merge import BLOCK
from merging.recipe.values import DTYPES
from merging.safetensors_header import read_json
from merging.staging import Manifest, Progress, staged, verify, write_file, write_manifest
from merging.task import Task
from merging.vector import Vector, working_dtype
from merging.writer import Writer

FACTS = "vector.json"
FORMAT = 1
SAVED_DTYPES = ("float32", "bfloat16", "float16")


class Facts(NamedTuple):
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


def save_vector(
    vector: Vector,
    out: str | Path,
    *,
    dtype: str = "float32",
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Write the deltas of a vector as a folder of their own, block by block.

    Args:
        vector: of any kind: the difference of two checkpoints, an adapter, a combination, a saved one.
        out: the folder to make; it must not exist.
        dtype: float32, which is exact, or float16 or bfloat16 at half the size, the error of which is in vector.json.
        progress: see merging.staging.Progress.

    Returns:
        `out`.

    Raises:
        ExportError: for a dtype that is none of these; when there is no room, the target exists, a delta is not finite
            in this dtype, or what is read back differs. No folder named `out` is left, then or when the process is ended.
    """
    if dtype not in SAVED_DTYPES:
        raise ExportError(
            f"a vector is saved as {', '.join(SAVED_DTYPES)}, not as {dtype!r}; {nearest(dtype, SAVED_DTYPES)}"
        )
    out = Path(out)
    todo = [_task(vector, name, dtype) for name in vector]
    with staged(out, sum(task.numel * task.out_dtype.itemsize for task in todo)) as staging:
        written, error = _write_deltas(staging / DELTAS, vector, todo, progress)
        facts = json.dumps(_facts(vector, dtype, error)._asdict(), indent=2) + "\n"
        files = {DELTAS: written, FACTS: write_file(staging / FACTS, facts.encode())}
        write_manifest(staging, Manifest(vector.digest[:12], files))
        verify(staging, progress, {DELTAS})
    return out


def _task(vector: Vector, name: str, dtype: str) -> Task:
    exact = working_dtype(dtype_of(vector.base, name))
    return Task(name, shape_of(vector.base, name), exact if dtype == "float32" else DTYPES[dtype], "task_arithmetic")


def _facts(vector: Vector, dtype: str, error: float) -> Facts:
    from merging import __version__

    return Facts(vector.name, getattr(vector.base, "digest", ""), vector.digest, dtype, error, __version__)


def _write_deltas(file: Path, vector: Vector, todo: list[Task], progress: Progress) -> tuple[tuple[int, str], float]:
    """Size and SHA-256 of what was written, and ‖saved − Δ‖ / ‖Δ‖."""
    # Wide dtypes first, so that every tensor begins at a multiple of its element size, as the library writes.
    ordered = sorted(todo, key=lambda task: -task.out_dtype.itemsize)
    facts = _facts(vector, "", 0.0)
    # The digest of the folder is taken over this header: two vectors of one shape are told apart by it.
    header = header_of(
        ordered, {"format": "pt", "dem_vector": facts.name, "dem_base": facts.base, "dem_tuned": facts.tuned}
    )
    total, done = sum(task.numel * task.out_dtype.itemsize for task in todo), 0
    lost = whole = 0.0
    with Writer(file, len(header) + total) as stream:
        stream.write(memoryview(header))
        for task in ordered:
            for start in range(0, task.numel, BLOCK):
                delta = vector.block(task.name, start, min(start + BLOCK, task.numel))
                stored = delta.to(task.out_dtype)
                if not all_finite(stored):
                    raise ExportError(_not_finite(vector, task, delta))
                lost += float((stored.double() - delta.double()).square().sum())
                whole += float(delta.double().square().sum())
                piece = stored.contiguous().view(torch.uint8).numpy().data
                stream.write(piece)
                done += len(piece)
                progress("write", done, total)
    return (stream.nbytes, stream.sha256), math.sqrt(lost / whole) if whole else 0.0


def _not_finite(vector: Vector, task: Task, delta: Tensor) -> str:
    advice = "Look for NaN or infinity in the checkpoint and its base with `dem inspect`."
    if all_finite(delta):
        advice = "float16 ends at 65,504: choose float32."
    return f"{vector.name}: {task.name} has differences that are not finite. {advice} Nothing was saved."


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
        return self.block(name, 0, math.prod(shape_of(self.base, name))).view(shape_of(self.base, name))

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
        base = read_block(self.base, name, start, stop).to(working_dtype(dtype_of(self.base, name)), copy=True)
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


def _read_facts(file: Path) -> Facts:
    document: Any = read_json(file)
    kinds: Mapping[str, Any] = Facts.__annotations__
    if not isinstance(document, dict) or set(document) != set(kinds):
        raise CheckpointError(f"{file} is not what `dem vector` writes: expected the keys {', '.join(kinds)}.")
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{file}: format is {document['format']!r}, this version reads {FORMAT}: update to open it."
        )
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise CheckpointError(f"{file}: {key} is {repr(document[key])[:80]}, expected {kind.__name__}.")
    return Facts(**document)
