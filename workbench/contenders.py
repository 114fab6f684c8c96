"""What can be compared: the base, each checkpoint alone, compositions, and models in folders of their own.

Models trained on mixed data, or made elsewhere, are added by their folder and kept in the workdir; exports of the workdir
are there by themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from workbench.commands import shown
from workbench.errors import SessionError
from workbench.files import write_whole
from workbench.lossbook import fingerprint
from workbench.models import FULL
from workbench.spending import key

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.models import Models
    from workbench.session import Session

Kind = Literal["base", "checkpoint", "current", "recipe", "export", "model"]
ADDED = "compared.json"
"""The models that were added, in a workdir."""


@dataclass(frozen=True)
class Contender:
    """One row of a comparison."""

    name: str
    kind: Kind
    recipe: Recipe
    """What makes its weights; of a folder the recipe that gives back exactly what is in it."""
    identity: str
    """The key of its losses in the book."""
    folder: Path | None = None
    """Where it is loaded from; None where it is composed from what is open."""

    @property
    def key(self) -> str:
        """The name of its weights in runs and ledger."""
        return key(self.recipe)


class Found(NamedTuple):
    """What can be compared, and what cannot."""

    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]


def contenders(
    session: Session, current: Recipe | None = None, most: int = 12, recipes: Sequence[Recipe] = ()
) -> Found:
    """All that can be compared, each once: what is the same weights stands under the first of its names.

    A page measures every place where its sliders rest. Of these the best by mean loss are there, and all that were
    benchmarked.

    Args:
        session: with open models.
        current: the composition that a page stands at.
        most: how many compositions that were measured but not benchmarked.
        recipes: compositions of what is open that are there in any case.
    """
    models = session.models
    notes: list[str] = []
    found: dict[str, Contender] = {}
    for made in _open(models):
        found.setdefault(made.key, made)
    if current is not None:
        made = Contender("current", "current", current, models.identity(current))
        if made.key in found:
            notes.append(f"the current composition is {found[made.key].name}")
        found.setdefault(made.key, made)
    benchmarked = {key(recipe): recipe for recipe in _benchmarked(session)}
    measured = {key(recipe): recipe for recipe in _measured(session) if fits(models, recipe)}
    for recipe in [*recipes, *(recipe for recipe in benchmarked.values() if fits(models, recipe))]:
        found.setdefault(key(recipe), Contender(recipe.formula(), "recipe", recipe, models.identity(recipe)))
    new = {name: recipe for name, recipe in measured.items() if name not in found}
    best = sorted(new, key=lambda name: _mean_loss(session, new[name]))
    for recipe in [new[name] for name in best[:most]]:
        found[key(recipe)] = Contender(recipe.formula(), "recipe", recipe, models.identity(recipe))
    if len(best) > most:
        notes.append(f"measured compositions that are not shown, as their mean loss is higher: {len(best) - most}")
    for name, kind, folder in _folders(session.workdir):
        try:
            made = of_folder(folder, name, kind)
        except SessionError as error:
            notes.append(str(error))
            continue
        found.setdefault(made.key, made)
    if others := len(benchmarked.keys() - found.keys()):
        notes.append(f"benchmarked recipes of other models than are open now: {others}")
    return Found(tuple(found.values()), tuple(notes))


def _open(models: Models) -> list[Contender]:
    """The base, and each vector alone at ω = 1."""
    base, alone = models.recipe({}), {name: models.recipe({name: 1.0}) for name in models.names}
    return [
        Contender("base", "base", base, models.identity(base)),
        *(Contender(name, "checkpoint", recipe, models.identity(recipe)) for name, recipe in alone.items()),
    ]


def of_folder(folder: Path, name: str, kind: Kind = "model") -> Contender:
    """A model in a folder of its own.

    Raises:
        SessionError: it is gone, or no full model.
    """
    from merging import Checkpoint, identified
    from merging.checkpoint import is_adapter
    from merging.errors import MergingError
    from merging.recipe import Recipe
    from merging.recipe.value import Source
    from merging.vector import DistributionVector

    if is_adapter(folder):
        raise SessionError(
            f"{shown(folder)} is an adapter, which is no model alone; open it as a checkpoint of its base."
        )
    try:
        checkpoint = Checkpoint(folder)
        itself = {name: DistributionVector(name, checkpoint, checkpoint)}
        source = Source(shown(folder), name, {"weight": 1.0})
        recipe = identified(Recipe(None, (source,), "linear"), checkpoint, itself)
        return Contender(name, kind, recipe, fingerprint([checkpoint.identity, "model"]), folder)
    except MergingError as error:
        raise SessionError(f"{name} cannot be compared: {error}") from None


def fits(models: Models, recipe: Recipe) -> bool:
    """Whether a recipe is one of what is open: the same base, and each vector that takes part under the same name."""
    taking = [source.name for source in recipe.models if recipe.omegas[source.name] != 0.0]
    known = {**models.start.inputs, models.base_name: models.base.digest}
    names = ["base", *taking]
    return not recipe.slices and all(name in known and recipe.inputs.get(name) == known[name] for name in names)


def added(workdir: Path) -> dict[str, Path]:
    """The models that were added to a workdir's comparisons, by name.

    Raises:
        SessionError: the file is damaged.
    """
    file = workdir / ADDED
    if not file.exists():
        return {}
    try:
        return {str(name): Path(path) for name, path in json.loads(file.read_text("utf-8")).items()}
    except (ValueError, AttributeError, TypeError):
        raise SessionError(f"{file} is not what this program wrote; remove it and add the models again.") from None


def add(session: Session, folder: str | Path, name: str | None = None) -> Contender:
    """Add a model of an allowed folder to the comparisons of a workdir.

    Raises:
        SessionError: it is not allowed, no full model, or the name is taken.
    """
    place = session.folders.resolve(folder)
    called = name or place.name
    have = added(session.workdir)
    if have.get(called, place) != place:
        raise SessionError(f"{called} is {shown(have[called])} already; give another name.")
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
        raise SessionError(f"no model called {name!r} was added; added are {', '.join(have) or 'none'}.")
    _write(session.workdir, {other: path for other, path in have.items() if other != name})


def _write(workdir: Path, models: dict[str, Path]) -> None:
    write_whole(workdir / ADDED, json.dumps({name: str(path) for name, path in models.items()}, indent=1) + "\n")


def _folders(workdir: Path) -> Iterator[tuple[str, Kind, Path]]:
    """Exports of the workdir, then what was added."""
    for folder in sorted((workdir / "exports").glob("*/")):
        if (folder / "config.json").is_file() and not folder.name.startswith("."):
            yield folder.name, "export" if (folder / "recipe.yml").is_file() else "model", folder.resolve()
    for name, path in added(workdir).items():
        yield name, "model", path


@lru_cache(maxsize=4096)
def parsed(text: str) -> Recipe:
    """A recipe of the table of runs; kept, because a page reads all of them each time its sliders come to rest."""
    from merging.recipe import Recipe

    return Recipe.from_yaml(text)


@lru_cache(maxsize=4096)
def _saved(file: Path, changed: int) -> Recipe | None:
    """A recipe file as it was when it was last changed, kept likewise; None for what someone else put there."""
    from merging.errors import MergingError
    from merging.recipe import Recipe

    try:
        return Recipe.read(file)
    except MergingError:
        return None


def _benchmarked(session: Session) -> Iterator[Recipe]:
    """The recipes in the table of runs, newest first."""
    seen = set()
    for run in session.runs(-1):
        if run.recipe_digest not in seen:
            seen.add(run.recipe_digest)
            yield parsed(run.recipe_yaml)


def _measured(session: Session) -> Iterator[Recipe]:
    """The recipe files of the workdir of which the ledger knows a whole measurement of losses."""
    from evaluation.prices import LOSSES

    spent = {phase.digest for phase in session.ledger.phases("evaluation") if phase.complete and phase.name == LOSSES}
    for file in sorted((session.workdir / "recipes").glob("*.yml")):
        recipe = _saved(file, file.stat().st_mtime_ns)
        if recipe is not None and key(recipe) in spent:
            yield recipe


def _mean_loss(session: Session, recipe: Recipe) -> float:
    """Over all datasets; infinite where one was not measured, or gave no number."""
    identity = session.models.identity(recipe)
    found = [session.book.get(identity, data.keys[FULL]) for data in session.models.data.values()]
    values = [math.nan if entry is None else entry.value for entry in found]
    return math.inf if any(map(math.isnan, values)) else math.fsum(values)
