"""Measures the losses that a page needs at first, so that a demo can ship them."""

from __future__ import annotations

import tempfile
from pathlib import Path


def keep_losses(demo: Path) -> None:
    """Writes the validation losses of a demo's base and of each expert alone into its folder.

    Every page of the demo needs them: they are the ends of the bars' axes and the table of
    interference.

    Args:
        demo: a folder with base/, one folder per checkpoint, data/ and recipe.yml.

    Raises:
        SessionError: the demo cannot be opened; the message says why.
    """
    from evaluation.records.loss_file import write_losses
    from workbench.session.interference import ends_of
    from workbench.session.loss_on_axis import FULL
    from workbench.session.session import KNOWN_LOSSES, Session

    file = demo / KNOWN_LOSSES
    # An older file would be read instead of measuring.
    file.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as workdir:
        session = Session([], Path(workdir), demo=demo)
        try:
            session.open_demo()
            models = session.models
            recipes = ends_of(models)
            for recipe in recipes:
                session.losses(recipe, FULL)
            kept = {models.content_key(recipe): models.identity(recipe) for recipe in recipes}
            keys = [data.keys[FULL] for data in models.data.values()]
            write_losses(file, session.book, kept, keys)
        finally:
            session.close()
