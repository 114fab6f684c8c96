"""What can be compared: the base, each checkpoint alone, compositions, and models in folders of their own.

Models trained on mixed data, or made elsewhere, are added by their folder and kept in the workdir; exports of the workdir
are there by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workbench.comparison.added_models import added, of_folder
from workbench.comparison.contender import Contender, Kind
from workbench.errors import SessionError
from workbench.session.keys import weights_key
from workbench.session.runs import read_runs
from workbench.session.sizes import FULL
from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session


class Contenders(NamedTuple):
    """What can be compared, and what cannot."""

    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]


def contenders(
    session: Session, current: Recipe | None = None, most: int = 12, recipes: Sequence[Recipe] = ()
) -> Contenders:
    """All that can be compared, each once: what is the same weights stands under the first of its names.

    A page measures every place where its sliders rest. Of these the best by mean loss are there, and all that were
    benchmarked.

    Args:
        session: with open models.
        current: the composition that a page stands at.
        most: how many compositions that were measured but not benchmarked.
        recipes: compositions of what is open that are there in any case.
    """
    from merging.recipe.formula import formula

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
    benchmarked = {weights_key(recipe): recipe for recipe in _benchmarked(session)}
    measured = {
        weights_key(recipe): recipe for recipe in _measured(session) if fits(models, recipe)
    }
    for recipe in [*recipes, *(recipe for recipe in benchmarked.values() if fits(models, recipe))]:
        found.setdefault(
            weights_key(recipe),
            Contender(formula(recipe), "recipe", recipe, models.identity(recipe)),
        )
    new = {name: recipe for name, recipe in measured.items() if name not in found}
    best = sorted(new, key=lambda name: _mean_loss(session, new[name]))
    for recipe in [new[name] for name in best[:most]]:
        found[weights_key(recipe)] = Contender(
            formula(recipe), "recipe", recipe, models.identity(recipe)
        )
    if len(best) > most:
        notes.append(
            f"measured compositions that are not shown, as their mean loss is higher: {len(best) - most}"
        )
    for name, kind, folder in _folders(session.workdir):
        try:
            made = of_folder(folder, name, kind)
        except SessionError as error:
            notes.append(str(error))
            continue
        found.setdefault(made.key, made)
    if others := len(benchmarked.keys() - found.keys()):
        notes.append(f"benchmarked recipes of other models than are open now: {others}")
    return Contenders(tuple(found.values()), tuple(notes))


def _open(models: Models) -> list[Contender]:
    """The base, and each vector alone at ω = 1."""
    base, alone = models.recipe({}), {name: models.recipe({name: 1.0}) for name in models.names}
    return [
        Contender("base", "base", base, models.identity(base)),
        *(
            Contender(name, "checkpoint", recipe, models.identity(recipe))
            for name, recipe in alone.items()
        ),
    ]


def fits(models: Models, recipe: Recipe) -> bool:
    """Whether a recipe is one of what is open: the same base, and each vector that takes part under the same name."""
    taking = [source.name for source in recipe.models if recipe.omegas[source.name] != 0.0]
    known = {**models.start.inputs, models.base_name: models.base.digest}
    names = ["base", *taking]
    return not recipe.slices and all(
        name in known and recipe.inputs.get(name) == known[name] for name in names
    )


def _folders(workdir: Workdir) -> Iterator[tuple[str, Kind, Path]]:
    """Exports of the workdir, then what was added."""
    for folder in sorted(workdir.exports.glob("*/")):
        if (folder / "config.json").is_file() and not folder.name.startswith("."):
            yield (
                folder.name,
                "export" if (folder / "recipe.yml").is_file() else "model",
                folder.resolve(),
            )
    for name, path in added(workdir).items():
        yield name, "model", path


@lru_cache(maxsize=4096)
def parsed(text: str) -> Recipe:
    """A recipe of the table of runs; kept, because a page reads all of them each time its sliders come to rest."""
    from merging.recipe import parse_recipe

    return parse_recipe(text)


@lru_cache(maxsize=4096)
def _saved(file: Path, changed: int) -> Recipe | None:
    """A recipe file as it was when it was last changed, kept likewise; None for what someone else put there."""
    from merging.errors import MergingError
    from merging.recipe import read_recipe

    try:
        return read_recipe(file)
    except MergingError:
        return None


def _benchmarked(session: Session) -> Iterator[Recipe]:
    """The recipes in the table of runs, newest first."""
    seen = set()
    for run in read_runs(session.workdir, -1):
        if run.recipe_digest not in seen:
            seen.add(run.recipe_digest)
            yield parsed(run.recipe_yaml)


def _measured(session: Session) -> Iterator[Recipe]:
    """The recipe files of the workdir of which the ledger knows a whole measurement of losses."""
    from evaluation.records.prices import LOSSES

    spent = {
        phase.digest
        for phase in session.ledger.phases("evaluation")
        if phase.complete and phase.name == LOSSES
    }
    for file in sorted(session.workdir.recipes.glob("*.yml")):
        recipe = _saved(file, file.stat().st_mtime_ns)
        if recipe is not None and weights_key(recipe) in spent:
            yield recipe


def _mean_loss(session: Session, recipe: Recipe) -> float:
    """Over all datasets; infinite where one was not measured, or gave no number."""
    identity = session.models.identity(recipe)
    found = [session.book.get(identity, data.keys[FULL]) for data in session.models.data.values()]
    values = [math.nan if entry is None else entry.value for entry in found]
    return math.inf if any(map(math.isnan, values)) else math.fsum(values)
