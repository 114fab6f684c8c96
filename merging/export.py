"""export(): the merged model as an ordinary Hugging Face folder that appears whole, or not at all.

Everything is written to a staging folder beside the target, flushed to disk, read back and compared, and only then
renamed. The library's own writer leaves files unreadable to others (mode 0600) and flushes nothing (safetensors 0.8.0),
and needs whole tensors; this one writes block by block.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.arranged import Grown
from merging.card import card
from merging.checkpoint import INDEX, Checkpoint, exists
from merging.errors import CheckpointError, ExportError
from merging.merge import Task, blocks, tasks
from merging.recipe import DTYPES, Recipe
from merging.safetensors_header import NAMES, read_json
from merging.tokens import with_added
from merging.vector import Vector

MANIFEST = "MANIFEST.json"
RECIPE = "recipe.yml"
CARD = "README.md"
SHARD_BYTES = 5_000_000_000

# What comes along from the base: configuration, tokenizer, chat templates. Never code, never weights of any kind.
_SIDE_FILES = re.compile(r".*\.(json|txt|model|jinja|tiktoken|vocab|merges)|LICENSE.*|NOTICE.*|USE_POLICY.*")
_NOT_COPIED = re.compile(r".*\.index\.json|adapter_config\.json|trainer_state\.json|MANIFEST\.json|recipe\.(yml|json)")

Progress = Callable[[str, int, int], None]
"""Called with the stage ('write' or 'verify'), bytes done and bytes in all. May raise to cancel the export."""


class Manifest(NamedTuple):
    """What a folder holds: its files by name, with size and SHA-256."""

    recipe: str
    """The recipe's digest."""
    files: dict[str, tuple[int, str]]

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(size for size, _ in self.files.values())


class _Shard(NamedTuple):
    name: str
    tasks: tuple[Task, ...]


def export(
    recipe: Recipe,
    base: Checkpoint,
    vectors: Mapping[str, Vector],
    out: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = lambda stage, done, total: None,
    command: str = "",
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

    Returns:
        `out`.

    Raises:
        RecipeError: when the recipe cannot be carried out on these weights.
        ExportError: when there is no room, the target exists, a value is not finite, or what is read back differs.
            No folder named `out` is left, then or when the process is ended.
    """
    out = Path(out)
    todo = tasks(recipe, base, vectors)
    total = sum(_nbytes(task) for task in todo)
    _room(out, total)
    staging = out.parent / f".{out.name}.staging-{_process(os.getpid())}"
    _sweep(out)
    try:
        staging.mkdir()
        shards = _shards(todo, shard_bytes)
        files = _write_shards(staging, shards, (recipe, base, vectors), progress, total)
        files |= _write_side_files(staging, base, recipe, _index(shards, total))
        text = card(recipe, base, vectors, command)
        files[CARD] = _write(staging / CARD, text.encode(errors="replace"))
        files[RECIPE] = _write(staging / RECIPE, recipe.to_yaml().encode())
        manifest = Manifest(recipe.digest, dict(sorted(files.items())))
        _write(staging / MANIFEST, _manifest_json(manifest))
        for folder in {(staging / name).parent for name in files}:
            _flush_folder(folder)
        _read_back(staging, todo, manifest, progress)
        _appear(staging, out)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExportError(
                f"{out} could not be written: {error.strerror or error}. Nothing was left behind."
            ) from None
        raise
    return out


def verify(folder: str | Path, progress: Progress = lambda stage, done, total: None) -> Manifest:
    """Read every file of an export again and compare it with the manifest.

    Raises:
        ExportError: naming each file that is missing, changed or not listed.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise ExportError(f"{folder} has no {MANIFEST}; it is not a folder that `dem merge` finished.")
    try:
        document = read_json(folder / MANIFEST)
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in document["files"].items()}
        manifest = Manifest(str(document["recipe"]), files)
    except CheckpointError as error:
        raise ExportError(str(error)) from None
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise ExportError(f"{folder / MANIFEST} is not a manifest of this tool.") from None
    wrong = []
    done = 0
    for name, (size, digest) in files.items():
        file = folder / name
        if "/" in name.replace("additional_chat_templates/", "") or ".." in name or not file.is_file():
            wrong.append(f"{name} is missing")
        elif file.stat().st_size != size:
            wrong.append(f"{name} has {file.stat().st_size:,} bytes, {size:,} were written")
        elif _sha256(file) != digest:
            wrong.append(f"{name} has changed")
        done += size
        progress("verify", done, manifest.nbytes)
    present = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    wrong += [f"{name} is not listed" for name in sorted(present - set(files) - {MANIFEST})]
    if wrong:
        raise ExportError(f"{folder} is not what was exported: {'; '.join(wrong)}. Export it again.")
    return manifest


def export_bytes(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> int:
    """Bytes of weights that an export of the recipe writes."""
    return sum(_nbytes(task) for task in tasks(recipe, base, vectors))


def _nbytes(task: Task) -> int:
    return task.numel * task.out_dtype.itemsize


def _room(out: Path, nbytes: int) -> None:
    if os.path.lexists(out):
        raise ExportError(f"{out} exists. Give a new folder; nothing is written into an old one.")
    if not (exists(out.parent) and out.parent.is_dir()):
        raise ExportError(f"{out.parent} is not a folder. Make it first, or give another place.")
    if not os.access(out.parent, os.W_OK):
        raise ExportError(f"{out.parent} is not writable. Give another place.")
    needed = nbytes + nbytes // 50 + 64_000_000
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise ExportError(
            f"{out.parent} has {free / 1e9:.2f} GB free, the export needs {needed / 1e9:.2f} GB. "
            "Free some, choose a smaller out_dtype, or give another place."
        )


def _sweep(out: Path) -> None:
    """Remove the staging folders of exports to this name whose process was killed."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.staging-*"):
        owner = folder.name.rpartition(".staging-")[2]
        number = re.match(r"\d{1,9}(?=-)", owner)
        if number and _process(int(number[0])) == owner:
            raise ExportError(f"{out} is being written by process {number[0]}. Wait for it, or give another name.")
        shutil.rmtree(folder, ignore_errors=True)


def _process(number: int) -> str | None:
    """A process and when it began, since numbers are used again; None when there is none."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it is somebody else's, and alive
    try:
        began = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # no /proc on this system
        began = "0"
    return f"{number}-{began}"


def _shards(todo: Sequence[Task], shard_bytes: int) -> list[_Shard]:
    groups: list[list[Task]] = [[]]
    filled = 0
    for task in todo:
        if groups[-1] and filled + _nbytes(task) > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(task)
        filled += _nbytes(task)
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
    progress: Progress,
    total: int,
) -> dict[str, tuple[int, str]]:
    recipe, base, vectors = inputs
    metadata = {"format": "pt", "dem_recipe": recipe.to_yaml(), "dem_digest": recipe.digest}
    files = {}
    done = 0
    for shard in shards:
        # Wide dtypes first, so that every tensor begins at a multiple of its element size, as the library writes.
        ordered = sorted(shard.tasks, key=lambda task: -task.out_dtype.itemsize)
        checksum = hashlib.sha256()
        with (staging / shard.name).open("xb") as file:
            for piece in _pieces(ordered, metadata, base, vectors):
                file.write(piece)
                checksum.update(piece)
                done += len(piece)
                progress("write", min(done, total), total)
            file.flush()
            os.fsync(file.fileno())
        files[shard.name] = ((staging / shard.name).stat().st_size, checksum.hexdigest())
    return files


def _pieces(
    ordered: Sequence[Task], metadata: Mapping[str, str], base: Checkpoint, vectors: Mapping[str, Vector]
) -> Iterator[bytes | memoryview]:
    yield _header(ordered, metadata)
    for task in ordered:
        for block in blocks(task, base, vectors):
            computed = task.vectors or task.out_dtype != base.info(task.name).dtype
            if computed and not torch.isfinite(block.values).all():
                raise ExportError(_not_finite(task, block.values, base))
            yield block.values.contiguous().view(torch.uint8).numpy().data


def _header(ordered: Sequence[Task], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file, padded with spaces to a multiple of 8 bytes, as the library writes it."""
    document: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for task in ordered:
        end = offset + _nbytes(task)
        document[task.name] = {
            "dtype": NAMES[task.out_dtype],
            "shape": list(task.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


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
        files[name] = _write(staging / name, content)
    if index is not None:
        files[INDEX] = _write(staging / INDEX, json.dumps(index, indent=2).encode())
    return files


def side_files(folder: Path) -> list[Path]:
    """The files that come along from the base's folder: configuration, tokenizer, chat templates, licence."""
    candidates = [*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")]
    return sorted(
        file
        for file in candidates
        if file.is_file() and _SIDE_FILES.fullmatch(file.name) and not _NOT_COPIED.fullmatch(file.name)
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


def _write(path: Path, content: bytes) -> tuple[int, str]:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(content), hashlib.sha256(content).hexdigest()


def _manifest_json(manifest: Manifest) -> bytes:
    files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in manifest.files.items()}
    return (json.dumps({"format": 1, "recipe": manifest.recipe, "files": files}, indent=2) + "\n").encode()


def _read_back(staging: Path, todo: Sequence[Task], manifest: Manifest, progress: Progress) -> None:
    verify(staging, progress)
    written = Checkpoint(staging)
    wanted = {task.name: (task.out_dtype, task.shape) for task in todo}
    found = {name: (written.info(name).dtype, written.info(name).shape) for name in written}
    if found != wanted:
        raise ExportError(f"what was written to {staging} is not the base's set of tensors. Please report this.")


def _appear(staging: Path, out: Path) -> None:
    if out.exists():
        raise ExportError(f"{out} was made by somebody else while the export ran. Give another name.")
    staging.rename(out)
    try:
        _flush_folder(out.parent)
    except BaseException:
        out.rename(staging)
        raise


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


__all__ = ["DTYPES", "Manifest", "export", "export_bytes", "side_files", "verify"]
