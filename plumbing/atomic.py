"""Writes files and replaces folders whole: a reader sees the old content or the new, never half."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path


def write_whole(file: Path, text: str, *, durable: bool = False) -> None:
    """Writes a draft beside the file, then renames it over the file.

    Several threads and processes may write the same file at the same time.

    Args:
        file: the file to write.
        text: its whole content, written as UTF-8.
        durable: flush the draft to the disk first, so that a power failure leaves the old content
            or the new content.

    Raises:
        OSError: the file could not be written; it has its old content.
    """
    draft = _draft(file)
    try:
        draft.write_text(text, encoding="utf-8")
        if durable:
            flush(draft)
        # A rename within one folder replaces the file in one step; from another disk it could not.
        draft.replace(file)
    # BaseException, because Ctrl-C must not leave a draft behind either.
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def replace_folder(out: Path, staged: Path) -> None:
    """Puts a finished folder in the place of `out`, which need not exist.

    Args:
        out: the folder to replace.
        staged: the finished folder, on the same disk; it is renamed to `out`.
    """
    # Renamed before it is deleted, so that `out` is missing only between two renames.
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    staged.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def check_writable(file: Path) -> None:
    """Checks that `write_whole` can write a file, before the work whose result it will hold.

    It makes and removes a draft, because access rights alone do not show it: root has all of them,
    even on a disk that is mounted read-only. The file itself is not touched.

    Raises:
        OSError: as `write_whole` would.
    """
    draft = _draft(file)
    draft.touch()
    draft.unlink()


def _draft(file: Path) -> Path:
    """Returns the hidden file beside `file` that this thread of this process writes first."""
    return file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.tmp")


def flush(path: Path) -> None:
    """Waits until the content of a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
