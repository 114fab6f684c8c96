"""Makes a folder appear complete or not at all: written under another name, then renamed."""

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from merging.errors import ExportError
from merging.inputs.manifest import MANIFEST, Manifest
from merging.paths import exists
from plumbing.atomic import flush


@contextmanager
def staging_folder(out: Path, nbytes: int) -> Iterator[Path]:
    """Makes a staging folder beside `out`, which becomes `out` at the end of the block.

    The block writes and verifies the files. After any error the staging folder is removed.

    Args:
        out: the folder to make; it must not exist.
        nbytes: about how many bytes it takes, for the check of free space.

    Raises:
        ExportError: if there is no room, `out` exists, or the disk refuses. No folder `out` is left
            then, nor if the process is killed.
    """
    check_room(out, nbytes)
    staging = out.parent / f".{out.name}.staging-{_process_identity(os.getpid())}"
    _sweep(out)
    try:
        staging.mkdir()
        yield staging
        # A new file's name is safe on the disk only after its folder has been flushed.
        for folder in {file.parent for file in staging.rglob("*")}:
            flush(folder)
        _rename(staging, out)
    # BaseException, because Ctrl-C must leave nothing behind either.
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExportError(
                f"{out} could not be written: {error.strerror or error}. Nothing was left behind."
            ) from None
        raise


def check_room(out: Path, nbytes: int) -> None:
    """Raises an ExportError, with the next step, if no folder `out` of this size can be made."""
    # lexists, because a broken link is in the way too.
    if os.path.lexists(out):
        raise ExportError(f"{out} exists. Give a new folder; nothing is written into an old one.")
    if not (exists(out.parent) and out.parent.is_dir()):
        raise ExportError(f"{out.parent} is not a folder. Make it first, or give another place.")
    if not os.access(out.parent, os.W_OK):
        raise ExportError(f"{out.parent} is not writable. Give another place.")
    # 2 % and 64 MB more, for configuration, tokenizer and the file system itself.
    needed = nbytes + nbytes // 50 + 64_000_000
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise ExportError(
            f"{out.parent} has {free / 1e9:.2f} GB free, the export needs {needed / 1e9:.2f} GB. "
            "Free some, choose a smaller dtype (--dtype bfloat16), or give another place."
        )


def _sweep(out: Path) -> None:
    """Removes staging folders that killed processes left; refuses if a live process uses one."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.staging-*"):
        owner = folder.name.rpartition(".staging-")[2]
        number = re.match(r"\d{1,9}(?=-)", owner)
        if number and _process_identity(int(number[0])) == owner:
            raise ExportError(
                f"{out} is being written by process {number[0]}. Wait for it, or give another name."
            )
        shutil.rmtree(folder, ignore_errors=True)


def _process_identity(number: int) -> str | None:
    """Returns a process's number and start time; None if no such process runs.

    The start time tells it from an older process, because systems reuse numbers.
    """
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it belongs to another user, and runs
    try:
        # From the last parenthesis on, because a process's name may hold spaces and parentheses.
        began = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # no /proc on this system
        began = "0"
    return f"{number}-{began}"


def write_file(path: Path, content: bytes) -> tuple[int, str]:
    """Writes a new file, flushed to the disk; returns its size in bytes and SHA-256."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(content), hashlib.sha256(content).hexdigest()


def copy_file(path: Path, source: BinaryIO, limit: int) -> tuple[int, str]:
    """Copies an open file to a new one, flushed to the disk; returns its size and SHA-256.

    Raises:
        ExportError: if there are more than `limit` bytes.
    """
    size, digest = 0, hashlib.sha256()
    with path.open("xb") as file:
        while piece := source.read(2**20):
            size += len(piece)
            if size > limit:
                raise ExportError(
                    f"{path.name} has grown beyond {limit:,} bytes while it was copied. Export "
                    "again when nothing writes to the base's folder."
                )
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def write_manifest(staging: Path, manifest: Manifest) -> None:
    """Writes the manifest with which `verify` compares the folder."""
    files = {
        name: {"bytes": size, "sha256": digest} for name, (size, digest) in manifest.files.items()
    }
    document: dict[str, Any] = {"format": 1, "recipe": manifest.recipe, "files": files}
    if manifest.left_out:
        document["left_out"] = dict(manifest.left_out)
    write_file(staging / MANIFEST, (json.dumps(document, indent=2) + "\n").encode())


def _rename(staging: Path, out: Path) -> None:
    """Renames the staging folder to `out`, or undoes that if the disk does not confirm it."""
    # Checked again, because rename would replace an empty folder that was made meanwhile.
    if out.exists():
        raise ExportError(
            f"{out} was made by another program while the export ran. Give another name."
        )
    staging.rename(out)
    try:
        flush(out.parent)
    except BaseException:
        out.rename(staging)
        raise
