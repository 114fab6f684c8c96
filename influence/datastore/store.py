"""A complete datastore, opened for reading; one that is not complete is refused."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from influence.datastore.coverage import read_coverage
from influence.datastore.layout import MANIFEST, NORMS, ROWS, part_of, parts_of, read_settings
from influence.datastore.store_settings import StoreSettings
from influence.errors import InfluenceError
from plumbing.suggest import listed


class Datastore(NamedTuple):
    """Projected gradients of all examples at all checkpoints, in files that are mapped."""

    folder: Path
    settings: StoreSettings

    def rows(self, checkpoint: int) -> np.memmap:
        """Returns the gradients at one checkpoint, each of length 1 (examples, d).

        Args:
            checkpoint: its number, from 0.
        """
        return part_of(self.folder, self.settings, checkpoint, ROWS).mapped()

    def norms(self, checkpoint: int) -> np.memmap:
        """Returns the lengths of the gradients at one checkpoint, float32 (examples,)."""
        return part_of(self.folder, self.settings, checkpoint, NORMS).mapped()

    def check_no_zero_gradient(self) -> None:
        """Checks that every example can be ranked: the cosine of a zero gradient is undefined.

        Raises:
            InfluenceError: gradients are zero; the message names the first ones.
        """
        zeros = [
            f"{self.settings.where(int(example))} at {checkpoint.name!r}"
            for number, checkpoint in enumerate(self.settings.checkpoints)
            for example in np.flatnonzero(self.norms(number) == 0)
        ]
        if zeros:
            raise InfluenceError(
                f"The cosine of a zero gradient is undefined, and {len(zeros):,} stored gradients "
                f"are zero: {listed(zeros)}. Leave these examples out of the pool and store it "
                "again; usually no supervised token of theirs is within the length limit."
            )


def open_datastore(folder: Path) -> Datastore:
    """Opens a complete datastore.

    Raises:
        InfluenceError: there is none in the folder, it is not complete, or a file is damaged.
    """
    settings = read_settings(folder)
    for part in parts_of(folder, settings).values():
        part.mapped()
    if not (folder / MANIFEST).exists():
        raise InfluenceError(
            f"The datastore in {folder} is not complete: {read_coverage(folder).text()} Run the "
            "command that stores it once more; it continues where it stopped."
        )
    return Datastore(folder, settings)
