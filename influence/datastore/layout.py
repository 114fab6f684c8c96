"""The files of a datastore: names, sizes, and how they are opened for reading.

    settings.json        what determines the content; written first
    0-rows.bin           the rows at checkpoint 0 (examples, d), scaled to length 1
    0-norms.bin          their lengths before that, float32 (examples,); 0 for a zero gradient
    0-written.bin        one byte for each example: 1 once its row and norm are on the disk
    1-rows.bin …         the same for the next checkpoints
    manifest.json        the settings again; written last, so it is there if all is written

Numbers are little-endian. All files of numbers have their whole size from the beginning.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from influence.datastore.store_settings import StoreSettings
from influence.errors import InfluenceError
from plumbing.units import size

SETTINGS, MANIFEST = "settings.json", "manifest.json"
ROWS, NORMS, WRITTEN = "rows", "norms", "written"
PARTS = (ROWS, NORMS, WRITTEN)


class StoreFile(NamedTuple):
    """One file of numbers of one checkpoint."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.dtype.itemsize * int(np.prod(self.shape))

    def mapped(self) -> np.memmap:
        """Maps the file into memory for reading.

        Raises:
            InfluenceError: the file is missing or has another size.
        """
        held = self.file.stat().st_size if self.file.exists() else None
        if held != self.nbytes:
            state = "is missing" if held is None else f"has {size(held)}, not {size(self.nbytes)}"
            raise InfluenceError(
                f"{self.file} {state}, so the datastore is damaged. Delete {self.file.parent} and "
                "store the gradients again."
            )
        return np.memmap(self.file, self.dtype, "r", shape=self.shape)


def part_of(folder: Path, settings: StoreSettings, checkpoint: int, part: str) -> StoreFile:
    """Returns one file of numbers.

    Args:
        folder: the datastore's folder.
        settings: the datastore's settings.
        checkpoint: the checkpoint's number, from 0.
        part: one of PARTS.
    """
    shape: tuple[int, ...] = (settings.examples,)
    if part == ROWS:
        shape += (settings.projection.dimension,)
    dtype = {ROWS: settings.dtype, NORMS: "float32", WRITTEN: "uint8"}[part]
    file = folder / f"{checkpoint}-{part}.bin"
    return StoreFile(file, np.dtype(dtype).newbyteorder("<"), shape)


def parts_of(folder: Path, settings: StoreSettings) -> dict[tuple[int, str], StoreFile]:
    """Returns all files of numbers: (checkpoint's number, part) -> the file."""
    return {
        (number, part): part_of(folder, settings, number, part)
        for number in range(len(settings.checkpoints))
        for part in PARTS
    }


def read_settings(folder: Path) -> StoreSettings:
    """Reads the settings with which a datastore was begun.

    Raises:
        InfluenceError: there is no datastore in the folder.
    """
    if not (folder / SETTINGS).exists():
        raise InfluenceError(
            f"There is no datastore in {folder}. Store gradients first: dem influence store."
        )
    return StoreSettings.read(folder / SETTINGS)
