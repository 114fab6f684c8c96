"""Exports a merged model as an ordinary Hugging Face folder that appears complete or not at all.

Everything is written to a staging folder beside `out`, flushed to the disk, read back and compared,
and only then renamed. The writer of safetensors 0.8.0 is not used: it leaves files unreadable to
other users (mode 0600), flushes nothing and needs whole tensors. This one writes piece by piece.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from merging.engine.accelerator import Accelerator
from merging.engine.finite import explain_not_finite
from merging.engine.identities import (
    check_identities,
    gather,
    with_identities,
    without_identities,
)
from merging.engine.loop import Cpu, spans
from merging.engine.task import Task
from merging.engine.tasks import tasks
from merging.errors import ExportError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.header import header_bytes
from merging.inputs.manifest import Manifest, Progress, verify
from merging.inputs.vector import Vector
from merging.outputs.card import card
from merging.outputs.merge_meter import MergeMeter, show_reads
from merging.outputs.side_files import left_out_note, side_files, write_side_files
from merging.outputs.staging import staging_folder, write_file, write_manifest
from merging.outputs.weight_plan import WeightFile, index_of, nbytes_of, plan_weight_files
from merging.outputs.writer import Writer
from merging.recipe import Recipe, recipe_yaml
from merging.threads import Spare, in_order, workers

Device = Cpu | Accelerator
"""A device that computes pieces."""

RECIPE = "recipe.yml"
CARD = "README.md"
SHARD_BYTES = 5_000_000_000
"""The default for the largest number of bytes in a weight file."""
WHOLE = 2**26
"""Elements of base, vectors and result, of all whole tensors that are computed at a time."""


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

    Its recipe.yml, card and manifest have the digests of the inputs (dem.inputs), which are known
    when all weights were read. The headers of the weight files, which are written before, hold the
    recipe without them.

    Args:
        recipe: the merge. If it has digests, the inputs must have them.
        base: Θ; its configuration and tokenizer are copied.
        vectors: the vectors that the recipe names.
        out: the folder to make; it must not exist.
        shard_bytes: the largest number of bytes of weights in one file, unless a single tensor is
            larger.
        progress: called with stage, done and total; see Progress. It may raise to cancel.
        command: the command line that repeats the export, for the model card.
        threads: the number of threads that read and compute; see merging.threads. It does
            not change the bytes.
        device: an accelerator to compute on, fresh for each export; see open_accelerator. By
            default the CPU. The model card says what was computed where.

    Returns:
        `out`.

    Raises:
        RecipeError: if the recipe cannot be carried out on these weights.
        MismatchError: if a vector belongs to another base, or an input has another digest than the
            recipe.
        ExportError: if there is no room, `out` exists, a value is not finite, or what is read back
            differs. No folder `out` is left then, nor if the process is killed.
    """
    out = Path(out)
    # Before `tasks`, which reads all weights for a method whose ω follow from them.
    gather([base, *vectors.values()])
    shown = show_reads(progress, recipe, base) if recipe.definition.closed_form else nullcontext()
    with shown:
        todo = tasks(recipe, base, vectors)
    # In the order of the base's files, so that its files, and as a rule those of its fine-tunes,
    # are read from start to end.
    todo.sort(key=lambda task: base.position(task.name))
    total = sum(nbytes_of(task) for task in todo)
    statistics = {
        name: file
        for task in todo
        for name, file in zip(task.vectors, task.statistics, strict=bool(task.statistics))
    }
    gather(file.stored for file in statistics.values())
    computing = device if device and recipe.definition.on_device else Cpu()
    side = side_files(base)
    with staging_folder(out, total + side.nbytes) as staging:
        shards = plan_weight_files(todo, base.folders, shard_bytes)
        inputs = without_identities(recipe, base), base, vectors
        written = _write_shards(
            staging, shards, inputs, computing, progress=progress, threads=threads
        )
        check_identities(recipe, base, vectors)
        recipe = with_identities(recipe, base, vectors, statistics)
        floats = {task.out_dtype for task in todo if task.out_dtype.is_floating_point}
        index, names = index_of(shards), side.taken
        files = written | write_side_files(staging, base, recipe, index, names, floats)
        text = card(recipe, base, vectors, command, device.report(recipe.method) if device else "")
        text += left_out_note(side.left_out)
        files[CARD] = write_file(staging / CARD, text.encode(errors="replace"))
        files[RECIPE] = write_file(staging / RECIPE, recipe_yaml(recipe).encode())
        manifest = Manifest(recipe.digest, dict(sorted(files.items())), side.left_out)
        write_manifest(staging, manifest)
        _check(staging, todo, progress, written)
    return out


def export_bytes(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> int:
    """Returns the bytes of weights that an export of the recipe writes."""
    return sum(nbytes_of(task) for task in tasks(recipe, base, vectors))


def _write_shards(
    staging: Path,
    shards: Sequence[WeightFile],
    inputs: tuple[Recipe, Checkpoint, Mapping[str, Vector]],
    device: Device,
    *,
    progress: Progress,
    threads: int | None,
) -> dict[str, tuple[int, str]]:
    """Writes the weight files; returns file name -> its size in bytes and SHA-256."""
    recipe, base, vectors = inputs
    metadata = {"format": "pt", "dem_recipe": recipe_yaml(recipe), "dem_digest": recipe.digest}
    meter = MergeMeter([task for shard in shards for task in shard.tasks], base, progress)
    written = {}
    for shard in shards:
        # Wide dtypes first, so that every tensor begins at a multiple of its element size, as
        # safetensors itself writes them.
        ordered = sorted(shard.tasks, key=lambda task: -task.out_dtype.itemsize)
        own = [task._replace(name=shard.own_name(task)) for task in ordered]
        header = header_of(own, metadata)
        (staging / shard.folder).mkdir(parents=True, exist_ok=True)
        with Writer(staging / shard.name, len(header) + shard.nbytes) as file:
            file.write(memoryview(header))
            for span, piece in _pieces(ordered, (base, vectors), device, threads, meter):
                file.write(piece)
                meter.took(span.task, span.size)
        written[shard.name] = file.nbytes, file.sha256
    return written


def _pieces(
    ordered: Sequence[Task],
    inputs: tuple[Checkpoint, Mapping[str, Vector]],
    device: Device,
    threads: int | None,
    meter: MergeMeter,
) -> Iterator[tuple[_Span, memoryview]]:
    """Yields the tensors span by span, with their bytes; the next span may overwrite them.

    Threads read and compute while earlier pieces are written.
    """
    base, vectors = inputs
    memories = Spare(lambda: device.memory(8 * device.most))

    def computed(span: _Span) -> tuple[_Span, Tensor | None, Tensor]:
        """Computes a span; returns it, the reused memory, if any, and the values in it."""
        dtype = span.task.out_dtype
        memory = memories.take() if span.size <= device.most else None
        out = (
            torch.empty(span.size, dtype=dtype)
            if memory is None
            else memory[: span.size * dtype.itemsize].view(dtype)
        )
        with meter.reading(span.task):
            device.compute(span.task, base, vectors, span.start, out)
        if why := explain_not_finite(span.task, base, out, span.start):
            raise ExportError(f"{why} Nothing was exported.")
        return span, memory, out

    todo = [_Span(task, *span) for task in ordered for span in spans(task, device.most)]
    count = threads or workers()
    # Two pieces for each thread: one is computed while the other waits for the disk. Or as many
    # whole tensors as fit, so that a method that needs them keeps more than one thread busy.
    held = 2 + max((len(task.vectors) for task in ordered), default=0)
    room = max([2 * count * device.most, WHOLE // held, *(span.size for span in todo)])
    for span, memory, out in in_order(
        todo, computed, size=lambda span: span.size, room=room, threads=count, tick=meter.tell
    ):
        yield span, out.view(torch.uint8).numpy().data
        # Reused only now: the consumer asks for the next piece when it has copied this one.
        if memory is not None:
            memories.give(memory)


def header_of(ordered: Sequence[Task], metadata: Mapping[str, str]) -> bytes:
    """Returns the header of a safetensors file with these tensors, in this order."""
    return header_bytes([(task.name, task.out_dtype, task.shape) for task in ordered], metadata)


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
