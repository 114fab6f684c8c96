"""Opens the files of a folder that came from a stranger, and nothing outside it.

A file of such a folder may be a link to /etc/passwd, and a folder in it a link to somebody's home.
Links that stay in the folder are followed. The one exception is the cache of the Hugging Face hub,
in which every file of a snapshot is a link to a blob of the same repository:

    models--ORG--NAME/blobs/HASH
    models--ORG--NAME/snapshots/COMMIT/config.json -> ../../blobs/HASH

A hard link cannot be told from the file itself.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from io import BufferedReader
from pathlib import Path

OUTSIDE = "a link that leads out of its folder"
SPECIAL = "not a regular file"
# The cache names a blob by Git's SHA-1 or by the SHA-256 of its content.
_BLOB = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def resolve_inside(folder: Path, name: str) -> Path | None:
    """Returns the real path of an entry of a folder; None if links lead out of the folder.

    A blob of the hub's cache to which a snapshot links counts as inside. The entry need not exist.

    Args:
        folder: the folder. It may be reached through links itself.
        name: the entry, relative to the folder.
    """
    place = _resolve(folder, name)
    return None if place is None else Path(*place)


def open_inside(folder: Path, name: str) -> BufferedReader:
    """Opens a regular file of a folder for reading.

    What was checked is what is opened, also if somebody replaces a file by a link meanwhile: no
    link is followed while the real path is walked.

    Args:
        folder: the folder.
        name: the file, relative to the folder.

    Raises:
        OSError: if the file is missing or unreadable, no regular file, or reached through a link
            that leads out of the folder; `strerror` says which.
    """
    place = _resolve(folder, name)
    if place is None:
        raise OSError(errno.EXDEV, OUTSIDE, str(folder / name))
    anchor, real = place
    # Not blocking: a FIFO that nobody writes to would hang here.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    at = os.open(anchor, flags | os.O_DIRECTORY)
    try:
        *folders, last = Path(real).parts or (".",)
        for part in folders:
            below = os.open(part, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        # Before it is opened too: opening a device can have effects of its own.
        if not stat.S_ISREG(os.stat(last, dir_fd=at, follow_symlinks=False).st_mode):
            raise OSError(errno.EINVAL, SPECIAL, str(folder / name))
        file = os.open(last, flags, dir_fd=at)
    finally:
        os.close(at)
    stream = os.fdopen(file, "rb")
    if not stat.S_ISREG(os.fstat(file).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, SPECIAL, str(folder / name))
    return stream


def _resolve(folder: Path, name: str) -> tuple[str, str] | None:
    """Returns a real folder and an entry's real path in it; None if the entry is outside.

    The folder is the given one, or the blobs of its repository in the hub's cache.
    """
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, name))  # noqa: PTH118
    if os.path.commonpath([root, real]) == root:
        return root, os.path.relpath(real, root)
    for snapshot in (Path(root), *Path(root).parents):
        repository = snapshot.parent.parent
        if snapshot.parent.name == "snapshots" and repository.name.startswith("models--"):
            blobs, blob = os.path.split(real)
            # `real` has no links, so a folder of blobs that is one itself, or a blob that is, has
            # another path here.
            if blobs == str(repository / "blobs") and _BLOB.fullmatch(blob):
                return blobs, blob
    return None
