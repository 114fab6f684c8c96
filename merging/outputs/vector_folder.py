"""Writes the deltas of a vector as a folder: save_vector()."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from merging.dtypes import DTYPES, nearest_dtype, working_dtype
from merging.engine.finite import all_finite
from merging.engine.identities import gather
from merging.engine.loop import BLOCK
from merging.engine.task import Task
from merging.errors import ExportError
from merging.inputs.checkpoint import dtype_of, shape_of
from merging.inputs.manifest import Manifest, Progress, verify
from merging.inputs.saved_vector import FACTS, VectorFacts
from merging.inputs.vector import Vector
from merging.methods._contract import load
from merging.outputs.card import VERIFY, again, escape_cell
from merging.outputs.export import CARD, header_of
from merging.outputs.staging import staging_folder, write_file, write_manifest
from merging.outputs.weight_plan import nbytes_of
from merging.outputs.writer import Writer
from merging.paths import DELTAS
from merging.version import __version__

SAVED_DTYPES = ("float32", "bfloat16", "float16")


def save_vector(
    vector: Vector,
    out: str | Path,
    *,
    dtype: str = "float32",
    progress: Progress = lambda stage, done, total: None,
    command: str = "",
) -> Path:
    """Writes the deltas of a vector as a folder, block by block.

    Args:
        vector: any vector: the difference of two checkpoints, an adapter, a combination of vectors
            or a saved vector.
        out: the folder to make; it must not exist.
        dtype: one of SAVED_DTYPES. float32 is exact: a float64 base's deltas are then float64.
            float16 and bfloat16 take half the size; vector.json holds their error.
        progress: called with stage, done and total; see merging.inputs.manifest.Progress.
        command: the command line that makes the folder again, for its card.

    Returns:
        `out`.

    Raises:
        ExportError: for any other dtype; if there is no room, `out` exists, a delta is not finite
            in this dtype, or what is read back differs. No folder `out` is left then, nor if the
            process is killed.
    """
    if dtype not in SAVED_DTYPES:
        raise ExportError(
            f"a vector is saved as {', '.join(SAVED_DTYPES)}, not as {dtype!r}; "
            f"{nearest_dtype(dtype, SAVED_DTYPES)}"
        )
    out = Path(out)
    gather([vector.base, vector])
    todo = [_task(vector, name, dtype) for name in vector]
    with staging_folder(out, sum(nbytes_of(task) for task in todo)) as staging:
        written, error = _write_deltas(staging / DELTAS, vector, todo, progress)
        facts = _facts(vector, dtype, error)
        text = json.dumps(facts._asdict(), indent=2) + "\n"
        files = {
            DELTAS: written,
            FACTS: write_file(staging / FACTS, text.encode()),
            # Names of folders may hold bytes that are not UTF-8.
            CARD: write_file(staging / CARD, _card(facts, command).encode(errors="replace")),
        }
        # A vector has no recipe; the digest of what it was made from takes its place.
        write_manifest(staging, Manifest(vector.digest[:12], files))
        verify(staging, progress, {DELTAS})
    return out


def _task(vector: Vector, name: str, dtype: str) -> Task:
    """Returns a task that says in which shape and dtype a tensor's deltas are written."""
    exact = working_dtype(dtype_of(vector.base, name))
    return Task(
        name,
        shape_of(vector.base, name),
        exact if dtype == "float32" else DTYPES[dtype],
        load("task_arithmetic"),
    )


def _facts(vector: Vector, dtype: str, error: float) -> VectorFacts:
    """Returns the content of vector.json."""
    return VectorFacts(
        vector.name, getattr(vector.base, "digest", ""), vector.digest, dtype, error, __version__
    )


def _card(facts: VectorFacts, command: str) -> str:
    """Returns the card of the folder as Markdown."""
    lines = [
        f"# Δ{escape_cell(facts.name)}: a distribution vector",
        "",
        f"Base Θ: digest `{facts.base[:12]}`; made from weights with digest "
        f"`{facts.tuned[:12]}`. Deltas in {facts.dtype}, relative error {facts.error:.2e}. "
        f"Made by dem-workbench {facts.version}.",
        "",
        "To add it to the base, name this folder as a model of a recipe.",
        "",
        *again(command),
        *VERIFY,
    ]
    return "\n".join(lines)


def _write_deltas(
    file: Path, vector: Vector, todo: list[Task], progress: Progress
) -> tuple[tuple[int, str], float]:
    """Writes the deltas; returns the file's size and SHA-256, and the error ‖saved − Δ‖ / ‖Δ‖."""
    # Wide dtypes first, so that every tensor begins at a multiple of its element size, as
    # safetensors itself writes them.
    ordered = sorted(todo, key=lambda task: -task.out_dtype.itemsize)
    header = header_of(ordered, {"format": "pt", "dem_vector": vector.name})
    total, done = sum(nbytes_of(task) for task in todo), 0
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
    """Returns the message for deltas that are not finite."""
    advice = "Look for NaN or infinity in the checkpoint and its base with `dem inspect`."
    if all_finite(delta):
        advice = "float16 ends at 65,504: choose float32."
    return (
        f"{vector.name}: {task.name} has differences that are not finite. {advice} "
        "Nothing was saved."
    )
