"""save_vector(): deltas written as a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from merging.dtypes import DTYPES, working_dtype
from merging.engine.loop import BLOCK
from merging.engine.tasks import Task
from merging.errors import ExportError
from merging.inputs.checkpoint import dtype_of, shape_of
from merging.inputs.manifest import Manifest, Progress, verify
from merging.inputs.saved_vector import FACTS, VectorFacts
from merging.inputs.vector import Vector
from merging.methods._contract import load
from merging.outputs.export import all_finite, header_of
from merging.outputs.staging import staged, write_file, write_manifest
from merging.outputs.writer import Writer
from merging.paths import DELTAS
from plumbing.suggest import nearest

SAVED_DTYPES = ("float32", "bfloat16", "float16")


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
        progress: see merging.outputs.staging.Progress.

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
    return Task(
        name,
        shape_of(vector.base, name),
        exact if dtype == "float32" else DTYPES[dtype],
        load("task_arithmetic"),
    )


def _facts(vector: Vector, dtype: str, error: float) -> VectorFacts:
    from merging.version import __version__

    return VectorFacts(
        vector.name, getattr(vector.base, "digest", ""), vector.digest, dtype, error, __version__
    )


def _write_deltas(
    file: Path, vector: Vector, todo: list[Task], progress: Progress
) -> tuple[tuple[int, str], float]:
    """Size and SHA-256 of what was written, and ‖saved − Δ‖ / ‖Δ‖."""
    # Wide dtypes first, so that every tensor begins at a multiple of its element size, as the library writes.
    ordered = sorted(todo, key=lambda task: -task.out_dtype.itemsize)
    facts = _facts(vector, "", 0.0)
    # The digest of the folder is taken over this header: two vectors of one shape are told apart by it.
    header = header_of(
        ordered,
        {
            "format": "pt",
            "dem_vector": facts.name,
            "dem_base": facts.base,
            "dem_tuned": facts.tuned,
        },
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
