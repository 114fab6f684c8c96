"""Reach: which files a reader may open, and whether it may ask the hub.

A plan on the command line is its user's own and may name anything. A plan on the page may come from
anybody who can see the page: it reaches the allowed folders and nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from corpus.errors import CorpusError
from plumbing.inside_folder import resolve_inside

MOST = 100_000
"""The most entries of one folder that are looked at, folders below it included."""


@dataclass(frozen=True)
class Reach:
    """The files that may be read.

    Attributes:
        roots: real paths of the folders in which everything must lie after links are resolved;
            None for no limit.
        hub: whether the Hugging Face hub may be asked.
    """

    roots: tuple[Path, ...] | None = None
    hub: bool = True

    def holds(self, path: str | Path) -> bool:
        """Returns whether a file or folder is inside after links and dots are resolved."""
        if self.roots is None:
            return True
        real = Path(os.path.realpath(path))
        return any(real == root or root in real.parents for root in self.roots)

    def refusal(self, path: str | Path) -> str | None:
        """Says that a path is outside, or that something in this folder leads out; None if not.

        Nothing is looked at before the path itself is known to be inside, so the message does not
        tell whether a path outside exists.

        Args:
            path: a file, or a folder with everything in it. It need not exist.
        """
        if self.roots is None:
            return None
        if not self.holds(path):
            return (
                f"{path} is outside the folders this server may read ({self._listed()}). "
                "Start it with --models FOLDER to allow another one."
            )
        # Only links lead out, and a folder that is a link is not walked into by os.walk.
        seen = 0
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                entry = Path(folder, name)
                seen += 1
                if seen > MOST:
                    return f"{path} holds more than {MOST:,} files. Give a smaller folder."
                # The cache of the hub keeps a file's bytes beside the folder that names it.
                if (
                    entry.is_symlink()
                    and not self.holds(entry)
                    and resolve_inside(Path(path), str(entry.relative_to(path))) is None
                ):
                    return (
                        f"{entry} is a link that leads out of the folders this server may read "
                        f"({self._listed()}). Put the file itself there."
                    )
        return None

    def _listed(self) -> str:
        return ", ".join(map(str, self.roots or ())) or "none"


ANYWHERE = Reach()
"""No limit: what the person at the command line names."""


def check_plain_name(what: str, name: str, kind: str = "split") -> None:
    """Refuses a name that would lead to another place if it became a part of a path.

    Args:
        what: what the name is, for the message.
        name: the name; "" is accepted. A revision may have parts, as refs/convert/parquet has.
        kind: "revision" for a revision, anything else for a name of one part.

    Raises:
        CorpusError: it is absolute, has a part that begins with a dot, or has a slash.
    """
    parts = name.split("/") if kind == "revision" else [name]
    if name and not all(
        part and part[0] not in ".~" and part.isprintable() and not set(part) & set("/\\")
        for part in parts
    ):
        raise CorpusError(
            f"{what} is {name!r}, which is a path. Give a plain name, such as "
            f"{'main' if kind == 'revision' else 'train'}; a file or folder belongs into path."
        )
