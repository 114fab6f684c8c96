"""The manifest of an export, and `verify`, which checks a folder against its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from merging.errors import CheckpointError, ExportError
from merging.inputs.strict_json import read_json
from merging.paths import exists

MANIFEST = "MANIFEST.json"


Progress = Callable[[str, int, int], None]
"""Called with the step ('write' or 'verify'), bytes done and total bytes.

It may raise an error to cancel the export.
"""


class Manifest(NamedTuple):
    """The files of an export, as they were written."""

    recipe: str
    """The digest of the recipe."""
    files: dict[str, tuple[int, str]]
    """File name -> size in bytes and SHA-256."""

    @property
    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum(size for size, _ in self.files.values())


def verify(
    folder: str | Path,
    progress: Progress = lambda stage, done, total: None,
    read_back: Collection[str] = (),
) -> Manifest:
    """Reads every file of an export again and compares it with the manifest.

    Args:
        folder: the export.
        progress: see Progress.
        read_back: files that were already read back when they were written; only their sizes are
            compared.

    Raises:
        ExportError: if the folder does not exist, has no manifest, or differs from it. The message
            names each file that is missing, changed or not listed.
    """
    folder = Path(folder)
    if not exists(folder):
        raise ExportError(f"{folder} does not exist. Give the folder of an export.")
    if not (folder / MANIFEST).is_file():
        raise ExportError(
            f"{folder} has no {MANIFEST}; it is not a folder that `dem merge` finished."
        )
    try:
        document = read_json(folder / MANIFEST)
        files = {
            str(name): (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in document["files"].items()
        }
        manifest = Manifest(str(document["recipe"]), files)
    except CheckpointError as error:
        raise ExportError(str(error)) from None
    # 1e999 is valid JSON and reads as infinity, for which int() raises OverflowError.
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise ExportError(f"{folder / MANIFEST} is not a manifest of this tool.") from None
    wrong = []
    done = 0
    for name, (size, digest) in files.items():
        file = folder / name
        # The manifest may be a stranger's: its names must not lead out of the folder.
        if (
            "/" in name.replace("additional_chat_templates/", "")
            or ".." in name
            or not file.is_file()
        ):
            wrong.append(f"{name} is missing")
        elif file.stat().st_size != size:
            wrong.append(f"{name} has {file.stat().st_size:,} bytes, {size:,} were written")
        # Hashing is the slow part, so the size is compared first.
        elif name not in read_back and _sha256(file) != digest:
            wrong.append(f"{name} has changed")
        done += size
        progress("verify", done, manifest.nbytes)
    # A file that nobody listed may be what a loader picks: code, pickles, or other weights.
    present = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    wrong += [f"{name} is not listed" for name in sorted(present - set(files) - {MANIFEST})]
    if wrong:
        raise ExportError(
            f"{folder} is not what was exported: {'; '.join(wrong)}. Export it again."
        )
    return manifest


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
