"""A folder that appears whole, or not at all: written beside its place, flushed, verified, and only then renamed."""

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from merging.errors import ExportError
from merging.inputs.manifest import MANIFEST, Manifest
from merging.paths import exists
from plumbing.atomic import flush


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
            raise ExportError(
                f"{out} is being written by process {number[0]}. Wait for it, or give another name."
            )
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
    files = {
        name: {"bytes": size, "sha256": digest} for name, (size, digest) in manifest.files.items()
    }
    document = {"format": 1, "recipe": manifest.recipe, "files": files}
    write_file(staging / MANIFEST, (json.dumps(document, indent=2) + "\n").encode())


def _appear(staging: Path, out: Path) -> None:
    if out.exists():
        raise ExportError(
            f"{out} was made by somebody else while the export ran. Give another name."
        )
    staging.rename(out)
    try:
        flush(out.parent)
    except BaseException:
        out.rename(staging)
        raise
