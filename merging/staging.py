"""A folder that appears whole, or not at all: written beside its place, flushed, verified, and only then renamed."""

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from merging.checkpoint import exists
from merging.errors import CheckpointError, ExportError
from merging.safetensors_header import read_json

MANIFEST = "MANIFEST.json"

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


@contextmanager
def staged(out: Path, nbytes: int) -> Iterator[Path]:
    """A staging folder that becomes `out` at the end of the block; on any error it is removed and nothing appears.

    Args:
        out: the folder to make; it must not exist.
        nbytes: about how many bytes it takes, for the check of free space.

    Raises:
        ExportError: when there is no room, the target exists, or the disk refuses. No folder named `out` is left, then
            or when the process is ended.
    """
    room(out, nbytes)
    staging = out.parent / f".{out.name}.staging-{_process(os.getpid())}"
    _sweep(out)
    try:
        staging.mkdir()
        yield staging
        for folder in {file.parent for file in staging.rglob("*")}:
            flush(folder)
        _appear(staging, out)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExportError(
                f"{out} could not be written: {error.strerror or error}. Nothing was left behind."
            ) from None
        raise


def verify(
    folder: str | Path, progress: Progress = lambda stage, done, total: None, read_back: Collection[str] = ()
) -> Manifest:
    """Read every file of an export again and compare it with the manifest.

    Args:
        folder: the export.
        progress: see Progress.
        read_back: files that were read back when they were written; only their sizes are compared.

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
        elif name not in read_back and _sha256(file) != digest:
            wrong.append(f"{name} has changed")
        done += size
        progress("verify", done, manifest.nbytes)
    present = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    wrong += [f"{name} is not listed" for name in sorted(present - set(files) - {MANIFEST})]
    if wrong:
        raise ExportError(f"{folder} is not what was exported: {'; '.join(wrong)}. Export it again.")
    return manifest


def room(out: Path, nbytes: int) -> None:
    """Raises an ExportError, with the next step, for a place where no folder of so many bytes can be made."""
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


def write_file(path: Path, content: bytes) -> tuple[int, str]:
    """Write a new file to the disk; its size and SHA-256."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(content), hashlib.sha256(content).hexdigest()


def write_manifest(staging: Path, manifest: Manifest) -> None:
    """Write what `verify` compares with."""
    files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in manifest.files.items()}
    document = {"format": 1, "recipe": manifest.recipe, "files": files}
    write_file(staging / MANIFEST, (json.dumps(document, indent=2) + "\n").encode())


def _appear(staging: Path, out: Path) -> None:
    if out.exists():
        raise ExportError(f"{out} was made by somebody else while the export ran. Give another name.")
    staging.rename(out)
    try:
        flush(out.parent)
    except BaseException:
        out.rename(staging)
        raise


def flush(place: Path) -> None:
    """Return when a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
