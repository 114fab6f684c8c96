"""The models that a user added to the comparison by their folder, kept in the workdir."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from plumbing.atomic import write_whole
from workbench.commands import display_path
from workbench.comparison.contender import Contender, Kind
from workbench.errors import SessionError
from workbench.session.keys import fingerprint
from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from merging.inputs.digest_cache import FileFacts
    from workbench.session.session import Session


def contender_from_folder(folder: Path, name: str, kind: Kind = "model") -> Contender:
    """Returns the contender of the full model in a folder.

    Raises:
        SessionError: the folder is gone, or holds an adapter or no model.
    """
    from merging import Checkpoint
    from merging.errors import MergingError
    from merging.paths import is_adapter

    if is_adapter(folder):
        raise SessionError(
            f"{display_path(folder)} is an adapter, not a full model. "
            "Open it as a checkpoint of its base."
        )
    try:
        return _contender(folder, name, kind, Checkpoint(folder).files)
    except MergingError as error:
        raise SessionError(f"{name} cannot be compared: {error}") from None


@lru_cache(maxsize=256)
def _contender(folder: Path, name: str, kind: Kind, files: tuple[FileFacts, ...]) -> Contender:
    """Returns the contender of a folder whose weight files are these.

    Cached, because a page asks for it whenever its sliders rest, and its digest covers all weights.
    """
    from merging import Checkpoint, with_identities
    from merging.inputs.vector import DistributionVector
    from merging.recipe import Recipe
    from merging.recipe.parts import ModelEntry

    # As `linear` with one model at weight 1 the recipe gives back the weights of the folder.
    checkpoint = Checkpoint(folder)
    itself = {name: DistributionVector(name, checkpoint, checkpoint)}
    source = ModelEntry(display_path(folder), name, {"weight": 1.0})
    recipe = with_identities(Recipe(None, (source,), "linear"), checkpoint, itself)
    # The word keeps these losses apart from those of a composition with the same weights, which
    # differ from them by rounding.
    return Contender(name, kind, recipe, fingerprint([checkpoint.identity, "model"]), folder)


def read_added(workdir: Workdir) -> dict[str, Path]:
    """Returns the folders of the models that were added to a workdir's comparisons, by name.

    Raises:
        SessionError: the file is damaged.
    """
    file = workdir.compared
    if not file.exists():
        return {}
    try:
        return {str(name): Path(path) for name, path in json.loads(file.read_text("utf-8")).items()}
    except (ValueError, AttributeError, TypeError):
        raise SessionError(
            f"{file} is damaged: it is not a JSON object of names and folders. "
            "Remove it and add the models again."
        ) from None


def add(session: Session, folder: str | Path, name: str | None = None) -> Contender:
    """Adds a full model to the comparisons of a workdir and returns its contender.

    Args:
        session: with the workdir and the allowed folders.
        folder: the model's folder, under an allowed root.
        name: how the row is called; the folder's name if None.

    Raises:
        SessionError: the folder is not allowed or holds no full model, or the name is taken.
    """
    path = session.folders.resolve(folder)
    name = name or path.name
    models = read_added(session.workdir)
    if models.get(name, path) != path:
        raise SessionError(
            f"{name} is already the name of {display_path(models[name])}. Give another name."
        )
    # Opened before it is written down, so that the file lists only what can be compared.
    contender = contender_from_folder(path, name)
    _write(session.workdir, models | {name: path})
    return contender


def remove(session: Session, name: str) -> None:
    """Removes an added model from the comparisons; its folder and its measurements are kept.

    Raises:
        SessionError: no model with this name was added.
    """
    models = read_added(session.workdir)
    if name not in models:
        raise SessionError(
            f"no model called {name!r} was added; added are {', '.join(models) or 'none'}."
        )
    _write(session.workdir, {other: path for other, path in models.items() if other != name})


def _write(workdir: Workdir, models: dict[str, Path]) -> None:
    write_whole(
        workdir.compared,
        json.dumps({name: str(path) for name, path in models.items()}, indent=1) + "\n",
    )
