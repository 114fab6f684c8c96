"""Loads what a training wrote, a checkpoint or an adapter, as one model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluation.model import Loaded


def load_trained(base: Path, folder: Path) -> Loaded:
    """Loads a checkpoint; an adapter is added to the weights of its base.

    Args:
        base: folder of the base that was trained.
        folder: what the training wrote.

    Raises:
        LoadError, MergingError: one of them cannot be read, or the adapter does not fit the base.
    """
    from evaluation.model import load
    from merging import Checkpoint, Recipe, prepare
    from merging.paths import is_adapter
    from workbench.session.composer import Composer

    if not is_adapter(folder):
        return load(folder, checkpoint=Checkpoint(folder))
    recipe = Recipe.compose(base, {"trained": folder}, {"trained": 1.0})
    opened, vectors, _ = prepare(recipe)
    loaded = load(base, checkpoint=opened)
    Composer(base, loaded, opened, vectors).compose(recipe)
    return loaded
