"""Folders: the allowed roots. The page reads nothing outside them, whatever links lead there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus.reach import Reach
from workbench.errors import SessionError

DEPTH = 4
"""How many levels below a root are searched."""
MOST = 500
"""How many folders are searched in all, and how many files are listed per folder."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder, or a file to train on, that the page offers.

    Attributes:
        path: the real path.
        label: how the page shows it.
        kind: "model", "adapter", "data" (validation data) or "source" (to train on).
    """

    path: Path
    label: str
    kind: str


class Folders:
    """The allowed roots and the folders in them.

    Args:
        roots: folders that were named when the program started; the page cannot add to them.
    """

    def __init__(self, roots: Sequence[Path]):
        # Resolved, because everything below compares real paths: a root that is a link would hold
        # nothing.
        self.roots = tuple(dict.fromkeys(Path(root).resolve() for root in roots))

    def resolve(self, path: str | Path, *, whole: bool = True) -> Path:
        """Returns the real path of a folder under a root, in which no link leads out of the roots.

        Readers follow links: transformers reads tokenizer.json, wherever it leads. So all files are
        checked before one is read. Links of the hub's cache to its own blobs are allowed.

        Args:
            path: the folder.
            whole: also check everything in it; False if the folder is only looked up.

        Raises:
            SessionError: it is not a folder, or it or something in it is outside every root after
                links and dots are resolved.
        """
        real = Path(os.path.realpath(path))
        # Before anything is looked at, so that the message does not tell whether a path outside
        # exists.
        if not self.holds(real):
            roots = ", ".join(map(str, self.roots)) or "none"
            raise SessionError(
                f"{path} is outside the folders this server may read ({roots}). "
                "Start it with --models FOLDER to allow another one."
            )
        if not real.is_dir():
            raise SessionError(
                f"{path} is not a folder. Choose one from the list, or refresh the list."
            )
        if whole and (message := self.reach.refusal(real)):
            raise SessionError(message)
        return real

    def holds(self, path: str | Path) -> bool:
        """Returns whether a file or folder is under a root after links are resolved."""
        return self.reach.holds(path)

    @property
    def reach(self) -> Reach:
        """What a plan of the page may read: everything under the roots, and nothing of the hub."""
        return Reach(self.roots, hub=False)

    def label(self, path: Path) -> str:
        """Returns how the page shows a folder: its path from the name of its root down."""
        for root in self.roots:
            if path == root or root in path.parents:
                return str(Path(root.name) / path.relative_to(root))
        return str(path)

    def models(self) -> list[ModelFolder]:
        """Returns the folders with the weights of a model or of an adapter."""
        folders = []
        for path in self._walk():
            # Asked first, because the folder of an adapter holds a safetensors file as well.
            if (path / "adapter_config.json").is_file():
                folders.append(ModelFolder(path, self.label(path), "adapter"))
            elif any(path.glob("*.safetensors")):
                folders.append(ModelFolder(path, self.label(path), "model"))
        return folders

    def data(self) -> list[ModelFolder]:
        """Returns the folders that hold <dataset>/validation.jsonl."""
        return [
            ModelFolder(path, self.label(path), "data")
            for path in self._walk()
            if any(path.glob("*/validation.jsonl"))
        ]

    def sources(self) -> list[ModelFolder]:
        """Returns the folders with a train.jsonl, and the JSONL files of all other folders."""
        sources = []
        for path in self._walk():
            if self.holds(path / "train.jsonl") and (path / "train.jsonl").is_file():
                sources.append(ModelFolder(path, self.label(path), "source"))
                continue
            # A file may be a link that leads out of the roots.
            files = [file for file in sorted(path.glob("*.jsonl")) if self.holds(file)]
            sources += [ModelFolder(file, self.label(file), "source") for file in files[:MOST]]
        return sources

    def _walk(self) -> Iterator[Path]:
        """Yields the folders under the roots, each once, sorted, at most DEPTH levels down."""
        # Roots may lie inside each other, and each folder is to be offered once.
        seen: set[Path] = set()
        for root in self.roots:
            for folder, names, _ in os.walk(root):
                path = Path(os.path.realpath(folder))
                # os.walk goes into what is left in `names`; emptying it ends this branch.
                if path in seen or len(seen) >= MOST:
                    names.clear()
                    continue
                seen.add(path)
                deep = len(Path(folder).relative_to(root).parts) >= DEPTH
                names[:] = [] if deep else sorted(name for name in names if not _is_skipped(name))
                yield path


def _is_skipped(name: str) -> bool:
    """Returns whether a folder is hidden or unfinished: states of a training, or a draft."""
    return name.startswith(".") or name.endswith((".training", ".partial"))
