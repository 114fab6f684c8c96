"""Writes a datastore: any examples in any order, by one process or several, resumed after a kill.

A row counts as written only once it and its norm are on the disk. So a process that is killed loses
the last few rows, which are written again next time, and never leaves a row that is half written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import disk_usage
from typing import BinaryIO, Self

import numpy as np
from torch import Tensor

from influence.datastore.coverage import Coverage, read_coverage
from influence.datastore.layout import (
    MANIFEST,
    NORMS,
    ROWS,
    SETTINGS,
    WRITTEN,
    parts_of,
    read_settings,
)
from influence.datastore.store_settings import StoreSettings
from influence.errors import InfluenceError
from plumbing.atomic import flush, write_whole
from plumbing.units import size

UNMARKED = 256
"""Rows that are written before they are flushed to the disk and marked; a kill loses no more."""


class DatastoreWriter:
    """A datastore that is begun or resumed; a context manager, which flushes at the end.

    Several processes may write one datastore at the same time, each its own examples.

    >>> with DatastoreWriter(folder, settings) as writer:
    ...     for checkpoint in range(len(settings.checkpoints)):
    ...         for batch in batched(writer.missing(checkpoint, mine), 16):
    ...             writer.put(checkpoint, batch, projected_gradients(batch))
    ...     coverage = writer.finish()

    Args:
        folder: the datastore's folder; it is made if it does not exist.
        settings: what it is to hold.

    Raises:
        InfluenceError: the folder has a datastore with other settings or a damaged one, or the disk
            has too little space.
    """

    def __init__(self, folder: Path, settings: StoreSettings) -> None:
        self._folder, self._settings = folder, settings
        self._parts = parts_of(folder, settings)
        if (folder / SETTINGS).exists():
            settings.check_same(read_settings(folder), folder)
            for part in self._parts.values():
                part.mapped()
        else:
            self._make()
        self._closing = ExitStack()
        self._files: dict[tuple[int, str], BinaryIO] = {
            key: self._closing.enter_context(part.file.open("r+b"))
            for key, part in self._parts.items()
        }
        self._unmarked: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._closing.close()

    def missing(self, checkpoint: int, within: range | None = None) -> list[int]:
        """Returns the examples that are not written yet, in order.

        Args:
            checkpoint: the checkpoint's number, from 0.
            within: the examples of this process; all of them if None.
        """
        self.flush()
        within = range(self._settings.examples) if within is None else within
        numbers = np.arange(within.start, within.stop, within.step)
        marks = self._parts[checkpoint, WRITTEN].mapped()
        missing: list[int] = numbers[marks[numbers] == 0].tolist()
        return missing

    def put(self, checkpoint: int, examples: Sequence[int], gradients: Tensor) -> None:
        """Writes the projected gradients of some examples, each scaled to length 1.

        Writing an example again replaces it.

        Args:
            checkpoint: the checkpoint's number, from 0.
            examples: the numbers of the examples.
            gradients: their projected gradients (examples, d).

        Raises:
            InfluenceError: a gradient is not finite, they do not have d numbers, or there is no
                such example.
        """
        values = gradients.detach().cpu().double().numpy()
        dimension = self._settings.projection.dimension
        if values.shape != (len(examples), dimension):
            raise InfluenceError(
                f"Gradients of the shape {tuple(values.shape)} were given for {len(examples)} "
                f"examples of a datastore with {dimension} numbers each."
            )
        outside = [each for each in examples if each not in range(self._settings.examples)]
        if outside:
            raise InfluenceError(
                f"There is no example {outside[0]} in a datastore of {self._settings.examples}; "
                "they are numbered from 0."
            )
        # In float64, because the squares of small gradients are too small for float32.
        norms = np.linalg.norm(values, axis=1)
        with np.errstate(over="ignore", under="ignore"):
            stored = norms.astype("<f4")
        for example, norm in zip(examples, stored, strict=True):
            if not np.isfinite(norm):
                name = self._settings.checkpoints[checkpoint].name
                raise InfluenceError(
                    f"The gradient of {self._settings.where(example)} at {name!r} is not finite, "
                    "so it cannot be stored. Look at the example: has it supervised tokens within "
                    "the length limit? Else use float32 for the model, not float16."
                )
        # A norm too small for float32 counts as 0, and so does its row.
        divisors = np.where(stored > 0, norms, np.inf)[:, None]
        rows = (values / divisors).astype(np.dtype(self._settings.dtype).newbyteorder("<"))
        for example, row, norm in zip(examples, rows, stored, strict=True):
            self._write(checkpoint, ROWS, example, row.tobytes())
            self._write(checkpoint, NORMS, example, norm.tobytes())
            self._unmarked.append((checkpoint, example))
        if len(self._unmarked) >= UNMARKED:
            self.flush()

    def flush(self) -> None:
        """Waits until all rows that were put are on the disk, then marks them as written."""
        checkpoints = sorted({checkpoint for checkpoint, _ in self._unmarked})
        for part in (ROWS, NORMS):
            self._to_disk(checkpoints, part)
        for checkpoint, example in self._unmarked:
            self._write(checkpoint, WRITTEN, example, b"\1")
        self._to_disk(checkpoints, WRITTEN)
        self._unmarked.clear()

    def finish(self) -> Coverage:
        """Completes the datastore if all examples are written, by this process or others.

        Returns:
            What is written. If it is not complete, another process still has to finish, or the same
            command has to be run again.
        """
        self.flush()
        coverage = read_coverage(self._folder)
        if coverage.complete:
            write_whole(self._folder / MANIFEST, self._settings.text(), durable=True)
            flush(self._folder)
        return coverage

    def _make(self) -> None:
        """Makes the files in their whole size, and then the settings."""
        settings, folder = self._settings, self._folder
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = sum(part.nbytes for part in self._parts.values()), disk_usage(folder).free
        if needed > free:
            raise InfluenceError(
                f"The datastore needs {size(needed)} and the disk of {folder} has {size(free)}. "
                "Use another disk, fewer checkpoints or a smaller dimension."
            )
        for part in self._parts.values():
            # Not "wb": another process may have made the file and begun to write.
            with part.file.open("ab") as file:
                file.truncate(part.nbytes)
        write_whole(folder / SETTINGS, settings.text(), durable=True)
        flush(folder)
        settings.check_same(read_settings(folder), folder)

    def _write(self, checkpoint: int, part: str, example: int, content: bytes) -> None:
        file = self._files[checkpoint, part]
        file.seek(example * len(content))
        file.write(content)

    def _to_disk(self, checkpoints: Sequence[int], part: str) -> None:
        for checkpoint in checkpoints:
            file = self._files[checkpoint, part]
            file.flush()
            os.fsync(file.fileno())
