"""Opens the inputs of a merge and reports every problem at once, each with its fix.

It reads headers, configurations and a few sampled blocks. So a user gets all errors before
gigabytes are read, instead of the first error after twenty minutes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from merging.engine.task import Task
from merging.engine.tasks import out_dtype_of, space_of, tasks
from merging.errors import MergingError, MismatchError, RecipeError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vector import Vector
from merging.inputs.vocabulary.align import Arrangement, arrange, is_whole, opened_like, same_rows
from merging.inputs.vocabulary.tokens import difference
from merging.opening.open import open_recipe, open_vector, references
from merging.preflight import room
from merging.preflight.differences import compare, vocabulary
from merging.preflight.duplicates import duplicates
from merging.preflight.idle_settings import ignored_keys, shadowed_rules
from merging.preflight.old_digests import old_inputs, old_vectors
from merging.preflight.problem import Problem, base_problems, told
from merging.preflight.references import (
    Locate,
    Probe,
    folder_names,
    join_errors,
    open_errors,
    recipe_errors,
    resolve_all,
)
from merging.recipe import Recipe
from merging.recipe.fields import VOCABULARIES

__all__ = ["Opened", "check", "preflight", "prepare", "problems_of"]


def _no_probe(reference: str) -> None:
    """The default probe, for callers without hub ids: folders are simply opened."""


class Opened(NamedTuple):
    """The inputs that could be opened, and all problems."""

    base: Checkpoint
    vectors: dict[str, Vector]
    problems: list[Problem]


def preflight(
    base_path: str | Path,
    paths: Sequence[str | Path],
    names: Sequence[str] | None = None,
    vocabularies: str = "refuse",
    *,
    locate: Locate = Path,
    probe: Probe = _no_probe,
) -> Opened:
    """Opens a base and other models without a recipe, and reports every problem.

    Args:
        base_path: the folder of Θ, or a reference for `locate`.
        paths: folders of checkpoints, adapters and saved vectors, or references.
        names: their names; the folders' names if not given.
        vocabularies: 'refuse', 'base' or 'union'; see merging.inputs.vocabulary.align.
        locate, probe: as in prepare.

    Returns:
        the base, every vector that could be opened, and the problems of all of them.

    Raises:
        CheckpointError, MismatchError: if the base cannot be read; the message has all errors.
        RecipeError: if `vocabularies` has another value.
    """
    if vocabularies not in VOCABULARIES:
        raise RecipeError(
            f"vocabulary is {vocabularies!r}, expected one of {', '.join(VOCABULARIES)}."
        )
    names = names or folder_names(paths)
    models = dict(zip(names, map(str, paths), strict=True))
    wanted = {str(base_path), *models.values()}
    folders, errors = resolve_all([str(base_path), *models.values()], locate, probe)
    # Some hub ids are in neither if another one failed: those were not downloaded.
    if len(folders) + len(errors) < len(wanted) or str(base_path) in errors:
        raise join_errors(list(errors.values()))
    try:
        base = Checkpoint(folders[str(base_path)])
    except MergingError as error:
        others = open_errors((folders[path], False) for path in models.values() if path in folders)
        raise join_errors([error, *errors.values(), *others]) from None
    missing = [
        Problem("error", name, str(errors[path])) for name, path in models.items() if path in errors
    ]
    located = {name: folders[path] for name, path in models.items() if path in folders}
    opened = _open(base, located, vocabularies)
    problems = base_problems(opened.base) + missing
    problems += opened.problems + duplicates(base, opened.vectors) + old_vectors(opened.vectors)
    problems += told(opened.vectors)
    return Opened(opened.base, opened.vectors, problems)


def prepare(
    recipe: Recipe,
    locate: Locate = Path,
    out: Path | None = None,
    probe: Probe = _no_probe,
    *,
    check_inputs: bool = True,
) -> Opened:
    """Opens the inputs of a recipe and reports every problem before anything is merged or written.

    Args:
        recipe: the recipe to merge.
        locate: returns the folder of a reference as written in the recipe.
        out: the folder of the export; if given, the free space of its disk is checked.
        probe: raises the error that `locate` would raise, without downloading weights. It is
            called for all hub ids before one is downloaded.
        check_inputs: as in open_recipe.

    Returns:
        base, vectors, and the warnings and notes for the user.

    Raises:
        MergingError: if there are errors; the message has them all.
    """
    folders, missing = resolve_all(references(recipe), locate, probe)
    if missing:
        raise join_errors([*missing.values(), *_everything_wrong(recipe, folders)])
    try:
        base, vectors = open_recipe(recipe, folders.__getitem__, check_inputs=check_inputs)
    except MergingError as error:
        # A wrong input may not even fit; then its digest says more than its shapes.
        if not check_inputs:
            return prepare(recipe, locate, out, probe)
        raise join_errors([error, *_everything_wrong(recipe, folders)]) from None
    problems = problems_of(recipe, base, vectors)
    # On inputs that do not fit, this would report the same faults again in other words.
    if not any(problem.severity == "error" for problem in problems):
        problems += _work_problems(recipe, base, vectors, out)
    return Opened(base, vectors, _raise_errors(problems))


def check(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> list[Problem]:
    """Compares each vector of a recipe with the base; returns the warnings and notes.

    Raises:
        MismatchError: if there are errors; the message has them all.
    """
    return _raise_errors(problems_of(recipe, base, vectors))


def problems_of(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> list[Problem]:
    """Returns all problems of a recipe on its opened inputs, errors included."""
    problems = base_problems(base) + ignored_keys(recipe) + shadowed_rules(recipe, base)
    problems += old_inputs(recipe) + old_vectors(vectors) + told(vectors)
    # Different layers of one model are no more similar than different models, so descent can only
    # be checked if slices keep the numbers of their layers.
    aligned = not recipe.slices or recipe.slices_aligned
    # `linear` averages weights, and whoever averages unrelated models has asked for that.
    related = aligned and not recipe.allow_unrelated and recipe.method != "linear"
    for source in recipe.models:
        problems += compare(base, vectors[source.name], related=related)
    if not recipe.slices:
        named = {source.name: vectors[source.name] for source in recipe.models}
        problems += duplicates(base, named, differences=space_of(recipe) == "deltas")
    return problems


def _raise_errors(problems: list[Problem]) -> list[Problem]:
    """Returns the problems if none is an error.

    Raises:
        MismatchError: with all errors, one per line.
    """
    if errors := [problem.text for problem in problems if problem.severity == "error"]:
        raise MismatchError("\n".join(errors))
    return problems


def _open(
    base: Checkpoint, folders: Mapping[str, Path], how: str, *, related: bool = True
) -> Opened:
    """Opens every vector that can be opened, and reports the problems of all.

    A checkpoint whose vocabulary is refused is opened with the base's rows instead, only to report
    its other problems; it is not among the vectors.
    """
    problems: list[Problem] = []
    sound: dict[str, Path] = {}
    refused: dict[str, Path] = {}
    for name, folder in folders.items():
        try:
            tuned = opened_like(base, name, folder) if is_whole(folder) else None
            if how == "refuse" and tuned is not None and not same_rows(base, tuned):
                problems += vocabulary(base, name, tuned, difference(base, tuned))
                refused[name] = folder
            else:
                sound[name] = folder
        except MergingError as error:
            problems.append(Problem("error", name, str(error)))
    arrangement, more = _arrangement(base, sound, how)
    problems += more
    aside = arrange(base, refused, "base")
    for view in aside.tuned.values():
        view.note = ""  # the view is not merged, so its note would be wrong
    vectors: dict[str, Vector] = {}
    for name in [name for name in folders if name in sound or name in refused]:
        own = arrangement if name in sound else aside
        try:
            vector = open_vector(folders[name], base, name, own)
            problems += compare(own.base, vector, related=related)
            if name in sound:
                vectors[name] = vector
        except MergingError as error:
            problems.append(Problem("error", name, str(error)))
    order = {name: number for number, name in enumerate(folders)}
    return Opened(
        arrangement.base,
        vectors,
        sorted(problems, key=lambda problem: order.get(problem.subject, -1)),
    )


def _arrangement(
    base: Checkpoint, folders: Mapping[str, Path], how: str
) -> tuple[Arrangement, list[Problem]]:
    """Brings vocabularies together as `how` says, and returns the errors of those that do not fit.

    If it is not possible, the base's rows are kept, so that other problems are still found.
    """
    try:
        return arrange(base, folders, how), []
    except MismatchError as error:
        lines = str(error).splitlines()
        return arrange(base, folders, "base"), [
            Problem("error", line.partition(":")[0], line) for line in lines
        ]


def _everything_wrong(recipe: Recipe, folders: Mapping[str, Path]) -> Sequence[MergingError | str]:
    """Returns every error of the folders of a recipe that could not be opened as a whole."""
    reference = references(recipe)[0]
    try:
        unusable = recipe.slices or reference not in folders
        base = None if unusable else Checkpoint(folders[reference])
    except MergingError:
        base = None
    if base is None:
        return recipe_errors(recipe, folders)
    located = {
        source.name: folders[source.location]
        for source in recipe.models
        if source.location in folders
    }
    related = not recipe.allow_unrelated and recipe.method != "linear"
    opened = _open(base, located, recipe.vocabulary, related=related)
    problems = base_problems(base) + opened.problems
    return [problem.text for problem in problems if problem.severity == "error"]


def _work_problems(
    recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector], out: Path | None
) -> list[Problem]:
    """Returns the problems of the recipe's settings, of the disk and of the memory."""
    try:
        # The ω of such a method are computed from all weights, which must not be read yet.
        if recipe.definition.closed_form is not None:
            todo = [_whole_task(recipe, base, name) for name in base]
        else:
            todo = tasks(recipe, base, vectors)
    except MergingError as error:
        return [Problem("error", "recipe", str(error))]
    return room.memory(todo, base) + (room.disk(todo, out) if out is not None else [])


def _whole_task(recipe: Recipe, base: Checkpoint, name: str) -> Task:
    """Returns a task that is good for sizes only: its ω are missing."""
    info = base.info(name)
    names = tuple(source.name for source in recipe.models)
    return Task(name, info.shape, out_dtype_of(recipe, info.dtype), recipe.definition, names)
