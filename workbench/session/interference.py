"""The interference table: the loss of each dataset under each vector alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from evaluation.records.loss_file import Shipped, read_losses
from workbench.session.keys import parts_text
from workbench.session.loss_on_axis import FULL
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from pathlib import Path

    from evaluation.records.loss_cache import LossCache
    from merging.recipe import Recipe
    from workbench.session.losses import Losses
    from workbench.session.models import Models


def ends_of(models: Models) -> list[Recipe]:
    """Returns the base and each expert alone: the ends of the bars' axes, and this table."""
    return [models.recipe({}), *(models.recipe({name: 1.0}) for name in models.names)]


def take_shipped(file: Path, models: Models, book: LossCache) -> None:
    """Takes in the losses of these ends that ship with models, so that none is measured again.

    Args:
        file: the losses.
        models: the models that are opened.
        book: where the losses go.

    Raises:
        StoreError: the file is damaged.
    """
    known = {
        models.content_key(recipe): Shipped(
            models.identity(recipe), parts_text(recipe, models.identities) or ""
        )
        for recipe in ends_of(models)
    }
    read_losses(file, book, models.base.identity, known)


def measure_interference(
    measuring: Losses, models: Models, stale: Stale
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the interference table after each row that was measured.

    Args:
        measuring: measures what is not known.
        models: the open models.
        stale: asked before each step; True ends the measurement.

    Yields:
        Two float64 arrays of shape (vectors, datasets): the loss of each dataset under each vector
        alone at ω = 1, and its standard error. Cells not measured yet are NaN.
    """
    from evaluation.errors import Stopped

    values = np.full((len(models.names), len(models.data)), np.nan)
    errors = values.copy()
    for row, vector in enumerate(models.names):
        try:
            losses = measuring.on_all(models, models.recipe({vector: 1.0}), FULL, stale)
        except Stopped:
            return
        for column, loss in enumerate(losses.values()):
            values[row, column], errors[row, column] = loss.value, loss.stderr
        # Copies, because the page may still draw one table while the next row is filled in.
        yield values.copy(), errors.copy()


def known_interference(book: LossCache, models: Models) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the interference table if every cell was measured before, else None."""
    cells = [
        [
            book.get(models.identity(models.recipe({vector: 1.0})), data.keys[FULL])
            for data in models.data.values()
        ]
        for vector in models.names
    ]
    if not models.data or any(cell is None for row in cells for cell in row):
        return None
    both = np.array([[(cell.value, cell.stderr) for cell in row if cell] for row in cells])
    return both[..., 0], both[..., 1]
