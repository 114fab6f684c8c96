"""contenders: lists everything that can be compared.

That is the base, each checkpoint alone, compositions, exports of the workdir, and models that the
user added by their folder, such as one trained on mixed data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from corpus.reach import Reach
from workbench.comparison.added_models import contender_from_folder, read_added
from workbench.comparison.contender import Contender, Kind
from workbench.errors import SessionError
from workbench.search.measured import measured_points
from workbench.search.record import PROGRESS, SearchRecord
from workbench.session.keys import weights_key
from workbench.session.loss_on_axis import FULL
from workbench.session.runs import read_runs
from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session


class Contenders(NamedTuple):
    """The contenders, and notes for the user about those that were left out."""

    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]


def contenders(
    session: Session, current: Recipe | None = None, most: int = 12, recipes: Sequence[Recipe] = ()
) -> Contenders:
    """Returns everything that can be compared. Equal weights appear once, under their first name.

    A page measures a composition wherever its sliders come to rest. Of these, all that were
    benchmarked are listed, and the recipes that the page's searches found for groups of layers. Of
    the others, the best by mean loss are.

    Args:
        session: with open models.
        current: the composition of the page's standing, or None.
        most: how many compositions are listed at most that were measured but not benchmarked.
        recipes: compositions of the open models that are listed in any case.
    """
    from merging.recipe.formula import formula

    models = session.models
    notes: list[str] = []
    by_key: dict[str, Contender] = {}
    # First, so that a composition with the same weights is shown as the base or as the checkpoint.
    for contender in _open(models):
        by_key.setdefault(contender.key, contender)
    if current is not None:
        contender = Contender("current", "current", current, models.identity(current))
        if contender.key in by_key:
            notes.append(f"the current composition is {by_key[contender.key].name}")
        by_key.setdefault(contender.key, contender)
    # Those of other models stay in this dictionary, because a note counts them below.
    benchmarked = {weights_key(recipe): recipe for recipe in _benchmarked(session)}
    measured = {
        weights_key(recipe): recipe for recipe in _measured(session) if fits(models, recipe)
    }
    points = measured_points(session.book, models)
    # A search may have measured thousands; those beyond the lowest are only counted.
    lowest = filter(None, (point.recipe(models) for point in points[: most + len(by_key) + 1]))
    measured |= {weights_key(recipe): recipe for recipe in lowest}
    listed_anyway = [*_found(session), *benchmarked.values()]
    for recipe in [*recipes, *(recipe for recipe in listed_anyway if fits(models, recipe))]:
        by_key.setdefault(
            weights_key(recipe),
            Contender(formula(recipe), "recipe", recipe, models.identity(recipe)),
        )
    new = {key: recipe for key, recipe in measured.items() if key not in by_key}
    best = sorted(new, key=lambda key: loss_sum(session, new[key]))
    for key in best[:most]:
        recipe = new[key]
        by_key[key] = Contender(formula(recipe), "recipe", recipe, models.identity(recipe))
    listed = {contender.identity for contender in by_key.values()}
    every = {models.identity(recipe) for recipe in new.values()} | {point.key for point in points}
    if hidden := every - listed:
        notes.append(
            f"measured compositions that are not shown, as their mean loss is higher: {len(hidden)}"
        )
    reach = Reach((*session.folders.roots, session.workdir.exports.resolve()), hub=False)
    for name, kind, folder in _folders(session.workdir):
        # A model may have been added when the server could read more.
        if message := reach.refusal(folder):
            notes.append(f"{name} cannot be compared: {message}")
            continue
        try:
            contender = contender_from_folder(folder, name, kind)
        # A folder that is gone costs its own row, not the whole table.
        except SessionError as error:
            notes.append(str(error))
            continue
        by_key.setdefault(contender.key, contender)
    if others := len(benchmarked.keys() - by_key.keys()):
        notes.append(f"benchmarked recipes of other models than are open now: {others}")
    return Contenders(tuple(by_key.values()), tuple(notes))


def _open(models: Models) -> list[Contender]:
    """Returns the contenders of the base and of each vector alone at ω = 1."""
    base, alone = models.recipe({}), {name: models.recipe({name: 1.0}) for name in models.names}
    return [
        Contender("base", "base", base, models.identity(base)),
        *(
            Contender(name, "checkpoint", recipe, models.identity(recipe))
            for name, recipe in alone.items()
        ),
    ]


def fits(models: Models, recipe: Recipe) -> bool:
    """Returns whether a recipe can be composed from the open models.

    It must have the open base, and each model whose ω is not 0 must be open under the same name.
    """
    taking = [source.name for source in recipe.models if recipe.omegas[source.name] != 0.0]
    # base_name is the base as one more model of a recipe, for the methods that take it.
    digests = {**models.start.inputs, models.base_name: models.base.digest}
    names = ["base", *taking]
    # Slices give a model with other layers than the live module has.
    return not recipe.slices and all(
        name in digests and recipe.inputs.get(name) == digests[name] for name in names
    )


def renewed(models: Models, recipe: Recipe) -> Recipe:
    """Returns a recipe of the open models with digests that cover all weights.

    Earlier versions stored digests of samples. Those that are the open models' are replaced, so
    that what was measured then is found; any other recipe is returned as it is.
    """
    from merging.inputs.sampled_digest import is_sampled

    # In dem.inputs "base" is the base, and a model of that name is "model base".
    opened = {"base": models.base} | {
        "model base" if name == "base" else name: vector for name, vector in models.vectors.items()
    }
    old = [key for key, digest in recipe.inputs.items() if is_sampled(digest) and key in opened]
    same = {
        key: opened[key].digest for key in old if opened[key].sampled_digest == recipe.inputs[key]
    }
    return replace(recipe, inputs={**recipe.inputs, **same}) if same else recipe


def _folders(workdir: Workdir) -> Iterator[tuple[str, Kind, Path]]:
    """Yields name, kind and folder of the workdir's exports, then of the added models."""
    for folder in sorted(workdir.exports.glob("*/")):
        # A folder with a dot is an export that is being written, or that a killed process left.
        if (folder / "config.json").is_file() and not folder.name.startswith("."):
            yield (
                folder.name,
                "export" if (folder / "recipe.yml").is_file() else "model",
                folder.resolve(),
            )
    for name, path in read_added(workdir).items():
        yield name, "model", path


@lru_cache(maxsize=4096)
def parse_run_recipe(text: str) -> Recipe:
    """Parses the recipe of a run; cached, as a page reads all runs whenever its sliders rest."""
    from merging.recipe import parse_recipe

    return parse_recipe(text)


@lru_cache(maxsize=4096)
def _saved(file: Path, changed: int) -> Recipe | None:
    """Parses a saved recipe file; cached by path and modification time (ns).

    Returns None if it is not a recipe of ours, but a file that someone else put there.
    """
    from merging.errors import MergingError
    from merging.recipe import read_recipe

    try:
        return read_recipe(file)
    except MergingError:
        return None


def _benchmarked(session: Session) -> Iterator[Recipe]:
    """Yields each recipe that was benchmarked in this workdir once, the newest first."""
    seen = set()
    for run in read_runs(session.workdir, -1):
        if run.recipe_digest not in seen:
            seen.add(run.recipe_digest)
            yield renewed(session.models, parse_run_recipe(run.recipe_yaml))


def _measured(session: Session) -> Iterator[Recipe]:
    """Yields the saved recipes of the workdir whose losses were measured on all examples.

    The ledger knows those of other models too. It does not count losses that a search measured
    together with their derivatives: those are in the cache, where measured_points finds all but the
    compositions that sliders cannot show.
    """
    from evaluation.records.prices import LOSSES

    # A recipe is also saved for jobs that were cancelled, so its file alone proves no measurement.
    measured = {
        phase.digest
        for phase in session.ledger.phases("evaluation")
        if phase.complete and phase.name == LOSSES
    }
    for file in sorted(session.workdir.recipes.glob("*.yml")):
        saved = _saved(file, file.stat().st_mtime_ns)
        if saved is None:
            continue
        recipe = renewed(session.models, saved)
        if weights_key(saved) in measured or (
            _is_grouped(recipe)
            and fits(session.models, recipe)
            and math.isfinite(loss_sum(session, recipe))
        ):
            yield recipe


def _is_grouped(recipe: Recipe) -> bool:
    """Returns whether an ω is no single number, so that sliders cannot show it."""
    return any(isinstance(omega, list | dict | tuple) for omega in recipe.omegas.values())


def _found(session: Session) -> Iterator[Recipe]:
    """Yields the best recipes of the page's searches that sliders cannot show."""
    for file in sorted(session.workdir.searches.glob(f"*/{PROGRESS}")):
        progress = SearchRecord(file.parent).progress()
        path = Path(progress.recipe) if progress and progress.recipe else None
        if path and path.is_file() and (recipe := _saved(path, path.stat().st_mtime_ns)):
            yield renewed(session.models, recipe)


def loss_sum(session: Session, recipe: Recipe) -> float:
    """Returns the sum of the losses on all datasets; infinite if one was not measured or is NaN.

    All recipes have the same datasets, so the sum orders them as the mean does.
    """
    identity = session.models.identity(recipe)
    entries = [session.book.get(identity, data.keys[FULL]) for data in session.models.data.values()]
    values = [math.nan if entry is None else entry.value for entry in entries]
    # With a NaN among its keys, sorted() would give any order.
    return math.inf if any(map(math.isnan, values)) else math.fsum(values)
