"""The folders that the page may read: only what lies under the allowed roots, after resolving links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import SessionError

DEPTH = 4
MOST = 500


@dataclass(frozen=True)
class ModelFolder:
    """A folder that the page offers."""

    path: Path
    label: str
    kind: str
    """model, adapter, data, or source for a training, which may be a file."""


class Folders:
    """The allowed roots and what is in them.

    Args:
        roots: folders named when the program was started. The page cannot add to them.
    """

    def __init__(self, roots: Sequence[Path]):
        self.roots = tuple(dict.fromkeys(Path(root).resolve() for root in roots))

    def resolve(self, path: str | Path) -> Path:
        """The real path of a folder under a root.

        Raises:
            SessionError: for a folder outside every root, whatever links or dots it was written with.
        """
        real = Path(os.path.realpath(path))
        if not self.holds(real):
            known = ", ".join(map(str, self.roots)) or "none"
            raise SessionError(
                f"{path} is outside the folders this server may read ({known}). "
                "Start it with --models FOLDER to allow another one."
            )
        if not real.is_dir():
            raise SessionError(f"{path} is not a folder. Choose one of the list, or refresh it.")
        return real

    def holds(self, path: str | Path) -> bool:
        """Whether a file or folder lies under a root, after resolving links."""
        real = Path(os.path.realpath(path))
        return any(real == root or root in real.parents for root in self.roots)

    def label(self, path: Path) -> str:
        """How a folder is called on the page: from its root's name down."""
        for root in self.roots:
            if path == root or root in path.parents:
                return str(Path(root.name) / path.relative_to(root))
        return str(path)

    def models(self) -> list[ModelFolder]:
        """Folders with weights or an adapter."""
        found = []
        for path in self._walk():
            if (path / "adapter_config.json").is_file():
                found.append(ModelFolder(path, self.label(path), "adapter"))
            elif any(path.glob("*.safetensors")):
                found.append(ModelFolder(path, self.label(path), "model"))
        return found

    def data(self) -> list[ModelFolder]:
        """Folders that hold <dataset>/validation.jsonl."""
        return [
            ModelFolder(path, self.label(path), "data")
            for path in self._walk()
            if any(path.glob("*/validation.jsonl"))
        ]

    def sources(self) -> list[ModelFolder]:
        """What can be trained on: folders with a train.jsonl, and JSONL files of folders without one."""
        found = []
        for path in self._walk():
            if (path / "train.jsonl").is_file():
                found.append(ModelFolder(path, self.label(path), "source"))
                continue
            files = [file for file in sorted(path.glob("*.jsonl")) if self.holds(file)]
            found += [ModelFolder(file, self.label(file), "source") for file in files[:MOST]]
        return found

    def _walk(self) -> Iterator[Path]:
        """Folders under the roots, each once, in order, at most DEPTH down, never outside a root."""
        seen: set[Path] = set()
        for root in self.roots:
            for folder, names, _ in os.walk(root):
                path = Path(os.path.realpath(folder))
                if path in seen or len(seen) >= MOST:
                    names.clear()
                    continue
                seen.add(path)
                deep = len(Path(folder).relative_to(root).parts) >= DEPTH
                names[:] = [] if deep else sorted(name for name in names if not _passing(name))
                yield path


def _passing(name: str) -> bool:
    """Whether a folder is hidden, or holds what is not done yet: states of a training, and drafts."""
    return name.startswith(".") or name.endswith((".training", ".partial"))
