"""Exports a merged model as an ordinary Hugging Face folder that appears complete or not at all.

Everything is written to a staging folder beside `out`, flushed to the disk, read back and compared,
and only then renamed. The writer of safetensors 0.8.0 is not used: it leaves files unreadable to
other users (mode 0600), flushes nothing and needs whole tensors. This one writes piece by piece.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.engine import kernel
from merging.engine.accelerator import Accelerator
from merging.engine.loop import Cpu, spans
from merging.engine.tasks import Task, tasks
from merging.engine.threads import Spare, in_order, workers
from merging.errors import ExportError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.header import header_bytes
from merging.inputs.manifest import Manifest, Progress, verify
from merging.inputs.vector import Vector
from merging.outputs.card import card
from merging.outputs.side_files import write_side_files
from merging.outputs.staging import staging_folder, write_file, write_manifest
from merging.outputs.writer import Writer
from merging.recipe import Recipe, recipe_yaml

Device = Cpu | Accelerator
"""A device that computes pieces."""

RECIPE = "recipe.yml"
CARD = "README.md"
SHARD_BYTES = 5_000_000_000
"""The default for the largest number of bytes in a weight file."""


class _Shard(NamedTuple):
    """A weight file and its tensors."""

    name: str
    tasks: tuple[Task, ...]


class _Span(NamedTuple):
    """The elements of a tensor that are computed together."""

    task: Task
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def export(
    recipe: Recipe,
    base: Checkpoint,
    vectors: Mapping[str, Vector],
    out: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = lambda stage, done, total: None,
    command: str = "",
    threads: int | None = None,
    device: Accelerator | None = None,
) -> Path:
    """Writes the merged model of a recipe as a model folder.

    Args:
        recipe: the merge.
        base: Θ; its configuration and tokenizer are copied.
        vectors: the vectors that the recipe names.
        out: the folder to make; it must not exist.
        shard_bytes: the largest number of bytes of weights in one file, unless a single tensor is
            larger.
        progress: called with stage, done and total; see Progress. It may raise to cancel.
        command: the command line that repeats the export, for the model card.
        threads: the number of threads that read and compute; see merging.engine.threads. It does
            not change the bytes.
        device: an accelerator to compute on, fresh for each export; see open_accelerator. By
            default the CPU. The model card says what was computed where.

    Returns:
        `out`.

    Raises:
        RecipeError: if the recipe cannot be carried out on these weights.
        MismatchError: if a vector belongs to another base.
        ExportError: if there is no room, `out` exists, a value is not finite, or what is read back
            differs. No folder `out` is left then, nor if the process is killed.
    """
    out = Path(out)
    # In the order of the base's files, so that its files, and as a rule those of its fine-tunes,
    # are read from start to end.
    todo = sorted(tasks(recipe, base, vectors), key=lambda task: base.position(task.name))
    total = sum(nbytes_of(task) for task in todo)
    computing = device if device and recipe.definition.on_device else Cpu()
    with staging_folder(out, total) as staging:
        shards = _shards(todo, shard_bytes)
        inputs = recipe, base, vectors
        written = _write_shards(
            staging, shards, inputs, computing, progress=progress, threads=threads
        )
        files = written | write_side_files(staging, base, recipe, _index(shards, total))
        text = card(recipe, base, vectors, command, device.report(recipe.method) if device else "")
        files[CARD] = write_file(staging / CARD, text.encode(errors="replace"))
        files[RECIPE] = write_file(staging / RECIPE, recipe_yaml(recipe).encode())
        write_manifest(staging, Manifest(recipe.digest, dict(sorted(files.items()))))
        _check(staging, todo, progress, written)
    return out


def export_bytes(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> int:
    """Returns the bytes of weights that an export of the recipe writes."""
    return sum(nbytes_of(task) for task in tasks(recipe, base, vectors))


def nbytes_of(task: Task) -> int:
    """Returns the bytes of one tensor of the merged model."""
    return task.numel * task.out_dtype.itemsize


def _shards(todo: Sequence[Task], shard_bytes: int) -> list[_Shard]:
    """Distributes the tensors over files, in order, named as transformers names them."""
    groups: list[list[Task]] = [[]]
    filled = 0
    for task in todo:
        if groups[-1] and filled + nbytes_of(task) > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(task)
        filled += nbytes_of(task)
    if len(groups) == 1:
        return [_Shard("model.safetensors", tuple(groups[0]))]
    return [
        _Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def _write_shards(
    staging: Path,
    shards: Sequence[_Shard],
    inputs: tuple[Recipe, Checkpoint, Mapping[str, Vector]],
    device: Device,
    *,
    progress: Progress,
    threads: int | None,
) -> dict[str, tuple[int, str]]:
    """Writes the weight files; returns file name -> its size in bytes and SHA-256."""
    recipe, base, vectors = inputs
    metadata = {"format": "pt", "dem_recipe": recipe_yaml(recipe), "dem_digest": recipe.digest}
    total = sum(nbytes_of(task) for shard in shards for task in shard.tasks)
    written = {}
    done = 0
    for shard in shards:
        # Wide dtypes first, so that every tensor begins at a multiple of its element size, as
        # safetensors itself writes them.
        ordered = sorted(shard.tasks, key=lambda task: -task.out_dtype.itemsize)
        header = header_of(ordered, metadata)
        with Writer(
            staging / shard.name, len(header) + sum(nbytes_of(task) for task in ordered)
        ) as file:
            file.write(memoryview(header))
            for piece in _pieces(ordered, base, vectors, device, threads):
                file.write(piece)
                done += len(piece)
                progress("write", done, total)
        written[shard.name] = file.nbytes, file.sha256
    return written


def _pieces(
    ordered: Sequence[Task],
    base: Checkpoint,
    vectors: Mapping[str, Vector],
    device: Device,
    threads: int | None,
) -> Iterator[memoryview]:
    """Yields the bytes of the tensors, in order; the next piece may overwrite a piece.

    Threads read and compute while earlier pieces are written.
    """
    memories = Spare(lambda: device.memory(8 * device.most))

    def computed(span: _Span) -> tuple[Tensor | None, Tensor]:
        """Computes a span; returns the reused memory, if any, and the values in it."""
        dtype = span.task.out_dtype
        memory = memories.take() if span.size <= device.most else None
        out = (
            torch.empty(span.size, dtype=dtype)
            if memory is None
            else memory[: span.size * dtype.itemsize].view(dtype)
        )
        device.compute(span.task, base, vectors, span.start, out)
        # Copied tensors may hold infinities of the base's own; a narrower dtype makes new ones.
        if (span.task.vectors or dtype != base.info(span.task.name).dtype) and not all_finite(out):
            raise ExportError(_not_finite(span.task, out))
        return memory, out

    todo = [_Span(task, *span) for task in ordered for span in spans(task, device.most)]
    count = threads or workers()
    # Two pieces for each thread: one is computed while the other waits for the disk.
    room = max([2 * count * device.most, *(span.size for span in todo)])
    for memory, out in in_order(
        todo, computed, size=lambda span: span.size, room=room, threads=count
    ):
        yield out.view(torch.uint8).numpy().data
        # Reused only now: the consumer asks for the next piece when it has copied this one.
        if memory is not None:
            memories.give(memory)


def all_finite(values: Tensor) -> bool:
    """Reports whether all values are finite."""
    if kernel.reads(values.dtype) and values.device.type == "cpu" and values.is_contiguous():
        return kernel.all_finite(values)
    # A finite sum proves it in a twentieth of the time of a test of each value. A sum that is not
    # finite may have overflowed, so each value is tested then.
    return bool(torch.isfinite(values.sum(dtype=torch.float32))) or bool(
        torch.isfinite(values).all()
    )


def header_of(ordered: Sequence[Task], metadata: Mapping[str, str]) -> bytes:
    """Returns the header of a safetensors file with these tensors, in this order."""
    return header_bytes([(task.name, task.out_dtype, task.shape) for task in ordered], metadata)


def _not_finite(task: Task, values: Tensor) -> str:
    """Returns the message for values that are not finite."""
    count = int((~torch.isfinite(values)).sum())
    if task.out_dtype == torch.float16:
        advice = "float16 ends at 65,504: choose bfloat16 or float32 as out_dtype, or smaller ω."
    else:
        advice = "Look for NaN or infinity in the inputs with `dem inspect`, or choose smaller ω."
    return f"{task.name}: {count:,} merged values are not finite. {advice} Nothing was exported."


def _index(shards: Sequence[_Shard], total: int) -> dict[str, Any] | None:
    """Returns the content of the index of several weight files; None for a single file."""
    if len(shards) == 1:
        return None
    weight_map = {task.name: shard.name for shard in shards for task in shard.tasks}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def _check(
    staging: Path, todo: Sequence[Task], progress: Progress, read_back: Collection[str]
) -> None:
    """Raises an ExportError unless the folder is as its manifest and the tasks say."""
    verify(staging, progress, read_back)
    # Opened like any model and compared tensor by tensor: mergekit leaves out, without a word,
    # tensors that its table of architectures lacks.
    written = Checkpoint(staging)
    wanted = {task.name: (task.out_dtype, task.shape) for task in todo}
    stored = {name: (written.info(name).dtype, written.info(name).shape) for name in written}
    if stored != wanted:
        raise ExportError(
            f"what was written to {staging} is not the base's set of tensors. Please report this."
        )
