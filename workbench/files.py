"""Small text files that appear whole: a reader sees the old one or the new one, never half of it."""

import os
import threading
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a draft beside the file and let it take its place; several threads and processes may write the same file.

    Raises:
        OSError: as writing does; the file is then as it was.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
