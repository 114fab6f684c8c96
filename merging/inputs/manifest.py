"""The manifest of an export, and `verify`, which checks a folder against its manifest."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from merging.errors import CheckpointError, ExportError
from merging.folder_files import is_plain
from merging.inputs.strict_json import read_json
from merging.paths import exists
from plumbing.inside_folder import open_inside

MANIFEST = "MANIFEST.json"


Progress = Callable[[str, int, int], None]
"""Called with the step, bytes done and total bytes.

The steps are "measure", for a method whose ω follow from the lengths of the vectors, then "write",
in bytes of the inputs (see merging.outputs.merge_meter), and "verify", in bytes of the export. It
is called now and then while the first tensor is read. It may raise an error to cancel the export.
"""


class Manifest(NamedTuple):
    """The files of an export, as they were written."""

    recipe: str
    """The digest of the recipe."""
    files: dict[str, tuple[int, str]]
    """File name, with `/` for sub-folders -> size in bytes and SHA-256."""
    left_out: Mapping[str, str] = MappingProxyType({})
    """File or sub-folder of the base that was not copied -> why; see merging.folder_files."""

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
        # The manifest may be a stranger's: neither its names nor links must lead out of the folder.
        try:
            if not is_plain(name):
                raise OSError(errno.EINVAL, "not the name of a file here")
            with open_inside(folder, name) as file:
                actual = os.fstat(file.fileno()).st_size
                if actual != size:
                    wrong.append(f"{name} has {actual:,} bytes, {size:,} were written")
                # Hashing is the slow part, so the size is compared first.
                elif name not in read_back and _sha256(file) != digest:
                    wrong.append(f"{name} has changed")
        except FileNotFoundError:
            wrong.append(f"{name} is missing")
        except OSError as error:
            wrong.append(f"{name} is missing: {error.strerror}")
        done += size
        progress("verify", done, manifest.nbytes)
    # A file that nobody listed may be what a loader picks: code, pickles, or other weights.
    present = _present(folder)
    wrong += [f"{name} is not listed" for name in sorted(present - set(files) - {MANIFEST})]
    if wrong:
        raise ExportError(
            f"{folder} is not what was exported: {'; '.join(wrong)}. Export it again."
        )
    return manifest


def _present(folder: Path) -> set[str]:
    """Returns everything in a folder but its real sub-folders: files, links and special files."""
    names = set()
    for at, folders, files in os.walk(folder):
        linked = [name for name in folders if (Path(at) / name).is_symlink()]
        names |= {(Path(at) / name).relative_to(folder).as_posix() for name in (*files, *linked)}
    return names


def _sha256(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
