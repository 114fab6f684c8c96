"""models added by folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from plumbing.atomic import write_whole
from workbench.commands import display_path
from workbench.comparison.contender import Contender, Kind
from workbench.errors import SessionError
from workbench.session.keys import fingerprint
from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from workbench.session.session import Session


def of_folder(folder: Path, name: str, kind: Kind = "model") -> Contender:
    """A model in a folder of its own.

    Raises:
        SessionError: it is gone, or no full model.
    """
    from merging import Checkpoint, with_identities
    from merging.errors import MergingError
    from merging.inputs.vector import DistributionVector
    from merging.paths import is_adapter
    from merging.recipe import Recipe
    from merging.recipe.parts import ModelEntry

    if is_adapter(folder):
        raise SessionError(
            f"{display_path(folder)} is an adapter, which is no model alone; open it as a checkpoint of its base."
        )
    try:
        checkpoint = Checkpoint(folder)
        itself = {name: DistributionVector(name, checkpoint, checkpoint)}
        source = ModelEntry(display_path(folder), name, {"weight": 1.0})
        recipe = with_identities(Recipe(None, (source,), "linear"), checkpoint, itself)
        return Contender(name, kind, recipe, fingerprint([checkpoint.identity, "model"]), folder)
    except MergingError as error:
        raise SessionError(f"{name} cannot be compared: {error}") from None


def added(workdir: Workdir) -> dict[str, Path]:
    """The models that were added to a workdir's comparisons, by name.

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
            f"{file} is not what this program wrote; remove it and add the models again."
        ) from None


def add(session: Session, folder: str | Path, name: str | None = None) -> Contender:
    """Add a model of an allowed folder to the comparisons of a workdir.

    Raises:
        SessionError: it is not allowed, no full model, or the name is taken.
    """
    place = session.folders.resolve(folder)
    called = name or place.name
    have = added(session.workdir)
    if have.get(called, place) != place:
        raise SessionError(f"{called} is {display_path(have[called])} already; give another name.")
    made = of_folder(place, called)
    _write(session.workdir, have | {called: place})
    return made


def remove(session: Session, name: str) -> None:
    """Take an added model out of the comparisons; its folder and its measurements stay.

    Raises:
        SessionError: no model of this name was added.
    """
    have = added(session.workdir)
    if name not in have:
        raise SessionError(
            f"no model called {name!r} was added; added are {', '.join(have) or 'none'}."
        )
    _write(session.workdir, {other: path for other, path in have.items() if other != name})


def _write(workdir: Workdir, models: dict[str, Path]) -> None:
    write_whole(
        workdir.compared,
        json.dumps({name: str(path) for name, path in models.items()}, indent=1) + "\n",
    )
