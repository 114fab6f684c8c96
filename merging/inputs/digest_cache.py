"""Keeps the digests of weight files in a cache of the user, so that each file is hashed once.

One small JSON file per set of weight files, in $XDG_CACHE_HOME/dem-workbench/digests or
~/.cache/dem-workbench/digests; in DEM_CACHE/digests if that variable names a folder. An empty
DEM_CACHE switches the cache off. Nothing here raises an error: without a cache, files are read
again.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from merging.inputs.digest import DIGITS
from plumbing.atomic import write_whole

VARIABLE = "DEM_CACHE"
"""The environment variable with the folder of the cache; empty for none."""
MOST = 2048
"""The most entries; the oldest are removed. All together take some 2 MB."""
SETTLED = 2_000_000_000
"""Nanoseconds for which a file must have been unchanged before it was hashed.

File systems count time in steps, FAT in 2 s. A file that is written twice within a step has the
same times before and after, so such a digest is not kept.
"""
MOST_BYTES = 2**20
"""Bytes of the largest entry that is read."""
_FORMAT = 1


class FileFacts(NamedTuple):
    """What changes when a file is written or replaced.

    Attributes:
        path: its resolved path.
        size: in bytes.
        modified: time of its last change, in ns since 1970.
        inode: another file of the same size and times may have been renamed over this one.
        status: time of the last change of its inode, in ns. Unlike `modified`, no tool can set it
            back.
    """

    path: str
    size: int
    modified: int
    inode: int
    status: int

    @classmethod
    def of(cls, file: Path) -> "FileFacts":
        """Returns the facts of a file as it is now; raises OSError if it is gone."""
        status = file.stat()
        return cls(
            str(file.resolve()),
            status.st_size,
            status.st_mtime_ns,
            status.st_ino,
            status.st_ctime_ns,
        )


def find(files: Sequence[FileFacts]) -> str | None:
    """Returns the digest of weight files that was kept for exactly these facts; None if none was.

    What is damaged, foreign or too large counts as none.
    """
    entry = _entry(files)
    if entry is None:
        return None
    try:
        if entry.stat().st_size > MOST_BYTES:
            return None
        content = json.loads(entry.read_bytes())
        digest = content["digest"]
        same = content["format"] == _FORMAT and content["files"] == [list(file) for file in files]
        sound = isinstance(digest, str) and re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", digest)
    # A stranger's file may hold anything, also JSON nested so deep that its reader gives up.
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if same and sound else None


def keep(files: Sequence[FileFacts], digest: str, began: int) -> None:
    """Keeps the digest of weight files.

    Args:
        files: their facts before the first byte was read. They must be the same now.
        digest: their digest.
        began: when the first byte was read, in ns since 1970. Nothing is kept if a file had been
            changed shortly before.
    """
    entry = _entry(files)
    if entry is None or any(began - max(file.modified, file.status) < SETTLED for file in files):
        return
    content = {"format": _FORMAT, "digest": digest, "files": [list(file) for file in files]}
    # A cache that cannot be written is no cache: a full disk or a read-only home stops no merge.
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_whole(entry, json.dumps(content) + "\n")
        _prune(entry.parent)
    except (OSError, ValueError):
        return


def folder() -> Path | None:
    """Returns the folder of the cache, which may not exist; None if it is switched off."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) / "digests" if named else None
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification of XDG ignores relative paths.
    if not caches.is_absolute():
        try:
            caches = Path.home() / ".cache"
        except RuntimeError:  # no user has a home here
            return None
    return caches / "dem-workbench" / "digests"


def _entry(files: Sequence[FileFacts]) -> Path | None:
    """Returns the file for the digest of weight files, named by their paths.

    So the digest of changed files replaces that of the same files before.
    """
    place = folder()
    if place is None:
        return None
    paths = json.dumps([file.path for file in files])
    return place / f"{hashlib.sha256(paths.encode()).hexdigest()[:32]}.json"


def _prune(place: Path) -> None:
    """Removes the oldest entries beyond MOST."""
    entries = list(place.glob("*.json"))
    if len(entries) <= MOST:
        return
    aged = []
    for entry in entries:
        # Another process may be removing the same ones.
        try:
            aged.append((entry.stat().st_mtime_ns, entry))
        except OSError:
            continue
    for _, entry in sorted(aged)[: len(aged) - MOST]:
        entry.unlink(missing_ok=True)
