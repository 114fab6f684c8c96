"""How many examples of a datastore are written, for each checkpoint and source."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from influence.datastore.layout import WRITTEN, part_of, read_settings
from plumbing.units import counted


class Written(NamedTuple):
    """The written examples of one source at one checkpoint."""

    checkpoint: str
    source: str
    written: int
    examples: int


class Coverage(NamedTuple):
    """The written examples of all checkpoints and sources."""

    parts: tuple[Written, ...]

    @property
    def written(self) -> int:
        """Number of rows that are written, over all checkpoints."""
        return sum(part.written for part in self.parts)

    @property
    def rows(self) -> int:
        """Number of rows that a complete datastore has: examples × checkpoints."""
        return sum(part.examples for part in self.parts)

    @property
    def complete(self) -> bool:
        """Whether every example is written at every checkpoint."""
        return self.written == self.rows

    def text(self) -> str:
        """Returns the coverage in words.

        >>> coverage = Coverage((Written("epoch 1", "cot", 2, 3), Written("epoch 1", "p3", 5, 5)))
        >>> print(coverage.text())
        7 of 8 rows are written. Missing at 'epoch 1': 1 example of 'cot'.
        """
        total = f"{self.written:,} of {self.rows:,} rows are written."
        missing: dict[str, list[str]] = {}
        for part in self.parts:
            if part.written < part.examples:
                count = counted(part.examples - part.written, "example")
                missing.setdefault(part.checkpoint, []).append(f"{count} of {part.source!r}")
        where = "; ".join(f"at {name!r}: {', '.join(each)}" for name, each in missing.items())
        return f"{total} Missing {where}." if missing else total


def read_coverage(folder: Path) -> Coverage:
    """Reads how much of a datastore is written; also of one that is being written now.

    Raises:
        InfluenceError: there is no datastore in the folder, or a file of it is missing or damaged.
    """
    settings = read_settings(folder)
    parts = []
    for number, checkpoint in enumerate(settings.checkpoints):
        marks = part_of(folder, settings, number, WRITTEN).mapped()
        for name, span in settings.spans().items():
            written = int(np.count_nonzero(marks[span.start : span.stop]))
            parts.append(Written(checkpoint.name, name, written, len(span)))
    return Coverage(tuple(parts))
