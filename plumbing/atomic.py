"""Small files that appear whole: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write_whole(file: Path, text: str, *, durable: bool = False) -> None:
    """Write a draft beside the file, then rename it over the file. Threads and processes may write the same file.

    Args:
        file: what to write.
        text: its whole content, written as UTF-8.
        durable: flush the draft to the disk first, so that a loss of power leaves the old content or the new.

    Raises:
        OSError: the file could not be written; it is as it was.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        if durable:
            flush(draft)
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Return when the content of a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
