"""Access rights of files that libraries write for their owner alone."""

from __future__ import annotations

import tempfile
from pathlib import Path


def give_usual_rights(folder: Path) -> None:
    """Gives every file in a folder the access rights that a new file of this user gets.

    safetensors writes weights readable by their owner only, whatever the umask says, so a
    colleague could read all of a checkpoint but its weights.

    Args:
        folder: a folder of this user; files in folders below it are changed too.
    """
    # Asking for the umask would set it for a moment, for all threads. A new file shows it.
    with tempfile.TemporaryDirectory(dir=folder) as place:
        new = Path(place) / "new"
        new.touch()
        mode = new.stat().st_mode & 0o777
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)
