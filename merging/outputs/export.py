"""export(): the merged model as an ordinary Hugging Face folder that appears whole, or not at all.

Everything is written to a staging folder beside the target, flushed to disk, read back and compared, and only then
renamed. The library's own writer leaves files unreadable to others (mode 0600) and flushes nothing (safetensors 0.8.0),
and needs whole tensors; this one writes block by block.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.engine import kernel
from merging.engine.accelerator import Accelerator
from merging.engine.loop import Processor, spans
from merging.engine.tasks import Task, tasks
from merging.engine.threads import Spare, in_order, workers
from merging.errors import ExportError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.header import written_header
from merging.inputs.manifest import Manifest, Progress, verify
from merging.inputs.vector import Vector
from merging.inputs.vocabulary.aligned import Grown
from merging.inputs.vocabulary.tokens import with_added
from merging.outputs.card import card
from merging.outputs.staging import staged, write_file, write_manifest
from merging.outputs.writer import Writer
from merging.paths import INDEX
from merging.recipe import Recipe, recipe_yaml

Place = Processor | Accelerator
"""Where pieces are computed."""

RECIPE = "recipe.yml"
CARD = "README.md"
SHARD_BYTES = 5_000_000_000

# What comes along from the base: configuration, tokenizer, chat templates. Never code, never weights of any kind.
_SIDE_FILES = re.compile(
    r".*\.(json|txt|model|jinja|tiktoken|vocab|merges)|LICENSE.*|NOTICE.*|USE_POLICY.*"
)
_NOT_COPIED = re.compile(
    r".*\.index\.json|adapter_config\.json|train(er_state|ing)\.json|MANIFEST\.json|recipe\.(yml|json)"
)


class _Shard(NamedTuple):
    name: str
    tasks: tuple[Task, ...]


class _Span(NamedTuple):
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
    """Write the merged model.

    Args:
        recipe: what to merge.
        base: Θ; its configuration and tokenizer come along.
        vectors: the vectors that the recipe names.
        out: the folder to make; it must not exist.
        shard_bytes: the most bytes of weights in one file, unless a single tensor has more.
        progress: see Progress.
        command: the command line that repeats the export, for the model card.
        threads: how many read and compute; see merging.engine.threads. The bytes are the same.
        device: where to compute, if not on the processor; see merging.engine.accelerator.named. The card says what was computed where.

    Returns:
        `out`.

    Raises:
        RecipeError: when the recipe cannot be carried out on these weights.
        ExportError: when there is no room, the target exists, a value is not finite, or what is read back differs.
            No folder named `out` is left, then or when the process is ended.
    """
    out = Path(out)
    # In the order of the base's files, so that they, and those of its fine-tunes as a rule, are read from end to end.
    todo = sorted(tasks(recipe, base, vectors), key=lambda task: base.position(task.name))
    total = sum(nbytes_of(task) for task in todo)
    place = device if device and recipe.definition.on_device else Processor()
    with staged(out, total) as staging:
        shards = _shards(todo, shard_bytes)
        inputs = recipe, base, vectors
        written = _write_shards(staging, shards, inputs, place, progress=progress, threads=threads)
        files = written | _write_side_files(staging, base, recipe, _index(shards, total))
        text = card(recipe, base, vectors, command, device.report(recipe.method) if device else "")
        files[CARD] = write_file(staging / CARD, text.encode(errors="replace"))
        files[RECIPE] = write_file(staging / RECIPE, recipe_yaml(recipe).encode())
        write_manifest(staging, Manifest(recipe.digest, dict(sorted(files.items()))))
        _check(staging, todo, progress, written)
    return out


def export_bytes(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> int:
    """Bytes of weights that an export of the recipe writes."""
    return sum(nbytes_of(task) for task in tasks(recipe, base, vectors))


def nbytes_of(task: Task) -> int:
    """Bytes of one tensor of the result."""
    return task.numel * task.out_dtype.itemsize


def _shards(todo: Sequence[Task], shard_bytes: int) -> list[_Shard]:
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
    place: Place,
    *,
    progress: Progress,
    threads: int | None,
) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each shard, by name."""
    recipe, base, vectors = inputs
    metadata = {"format": "pt", "dem_recipe": recipe_yaml(recipe), "dem_digest": recipe.digest}
    total = sum(nbytes_of(task) for shard in shards for task in shard.tasks)
    written = {}
    done = 0
    for shard in shards:
        # Wide dtypes first, so that every tensor begins at a multiple of its element size, as the library writes.
        ordered = sorted(shard.tasks, key=lambda task: -task.out_dtype.itemsize)
        header = header_of(ordered, metadata)
        with Writer(
            staging / shard.name, len(header) + sum(nbytes_of(task) for task in ordered)
        ) as file:
            file.write(memoryview(header))
            for piece in _pieces(ordered, base, vectors, place, threads):
                file.write(piece)
                done += len(piece)
                progress("write", done, total)
        written[shard.name] = file.nbytes, file.sha256
    return written


def _pieces(
    ordered: Sequence[Task],
    base: Checkpoint,
    vectors: Mapping[str, Vector],
    place: Place,
    threads: int | None,
) -> Iterator[memoryview]:
    """The bytes of the tensors, in order; each piece is good until the next one is asked for.

    Reading and arithmetic go on in threads while the pieces before are written.
    """
    memories = Spare(lambda: place.memory(8 * place.most))

    def computed(span: _Span) -> tuple[Tensor | None, Tensor]:
        dtype = span.task.out_dtype
        memory = memories.take() if span.size <= place.most else None
        out = (
            torch.empty(span.size, dtype=dtype)
            if memory is None
            else memory[: span.size * dtype.itemsize].view(dtype)
        )
        place.compute(span.task, base, vectors, span.start, out)
        if (span.task.vectors or dtype != base.info(span.task.name).dtype) and not all_finite(out):
            raise ExportError(_not_finite(span.task, out, base))
        return memory, out

    todo = [_Span(task, *span) for task in ordered for span in spans(task, place.most)]
    count = threads or workers()
    room = max([2 * count * place.most, *(span.size for span in todo)])
    for memory, out in in_order(
        todo, computed, size=lambda span: span.size, room=room, threads=count
    ):
        yield out.view(torch.uint8).numpy().data
        if memory is not None:
            memories.give(memory)


def all_finite(values: Tensor) -> bool:
    """Whether all values are finite."""
    if kernel.reads(values.dtype) and values.device.type == "cpu" and values.is_contiguous():
        return kernel.all_finite(values)
    # A sum is, but for overflow, and takes a twentieth of the time of a test of each.
    return bool(torch.isfinite(values.sum(dtype=torch.float32))) or bool(
        torch.isfinite(values).all()
    )


def header_of(ordered: Sequence[Task], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file with these tensors, in this order."""
    return written_header([(task.name, task.out_dtype, task.shape) for task in ordered], metadata)


def _not_finite(task: Task, values: Tensor, base: Checkpoint) -> str:
    count = int((~torch.isfinite(values)).sum())
    if task.out_dtype == torch.float16:
        advice = "float16 ends at 65,504: choose bfloat16 or float32 as out_dtype, or smaller ω."
    else:
        advice = "Look for NaN or infinity in the inputs with `dem inspect`, or choose smaller ω."
    return f"{task.name}: {count:,} merged values are not finite. {advice} Nothing was exported."


def _index(shards: Sequence[_Shard], total: int) -> dict[str, Any] | None:
    if len(shards) == 1:
        return None
    weight_map = {task.name: shard.name for shard in shards for task in shard.tasks}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def _write_side_files(
    staging: Path, base: Checkpoint, recipe: Recipe, index: dict[str, Any] | None
) -> dict[str, tuple[int, str]]:
    files = {}
    for source in side_files(base.path):
        name = str(source.relative_to(base.path))
        (staging / name).parent.mkdir(exist_ok=True)
        content = source.read_bytes()
        if name == "config.json":
            content = _config_json(base, recipe, content)
        if isinstance(base, Grown):
            content = with_added(name, content, base.entries, base.rows)
        files[name] = write_file(staging / name, content)
    if index is not None:
        files[INDEX] = write_file(staging / INDEX, json.dumps(index, indent=2).encode())
    return files


def side_files(folder: Path) -> list[Path]:
    """The files that come along from the base's folder: configuration, tokenizer, chat templates, licence."""
    candidates = [*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")]
    return sorted(
        file
        for file in candidates
        if file.is_file()
        and _SIDE_FILES.fullmatch(file.name)
        and not _NOT_COPIED.fullmatch(file.name)
    )


def _config_json(base: Checkpoint, recipe: Recipe, content: bytes) -> bytes:
    """The base's configuration, unchanged unless the recipe asks for another dtype or restacks its layers."""
    named = recipe.out_dtype or recipe.dtype
    config = dict(base.config)
    if named is not None and any(base.info(name).dtype.is_floating_point for name in base):
        keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
        config |= dict.fromkeys(keys, named)
    if config == base.config and not recipe.slices:
        return content
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _check(
    staging: Path, todo: Sequence[Task], progress: Progress, read_back: Collection[str]
) -> None:
    verify(staging, progress, read_back)
    written = Checkpoint(staging)
    wanted = {task.name: (task.out_dtype, task.shape) for task in todo}
    found = {name: (written.info(name).dtype, written.info(name).shape) for name in written}
    if found != wanted:
        raise ExportError(
            f"what was written to {staging} is not the base's set of tensors. Please report this."
        )
