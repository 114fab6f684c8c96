"""What stands in the way of a merge, found from headers, configurations and a few sampled blocks, all at once.

A report with every problem and its fix, before gigabytes are read, instead of the first one after twenty minutes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from merging.engine.tasks import Task, out_dtype_of, space_of, tasks
from merging.errors import MergingError, MismatchError, RecipeError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vector import Vector
from merging.inputs.vocabulary.align import Arrangement, arrange, is_whole, same_rows
from merging.inputs.vocabulary.tokens import difference
from merging.opening.open import open_recipe, open_vector, references
from merging.preflight import room
from merging.preflight.differences import compare, vocabulary
from merging.preflight.idle_settings import shadowed, without_effect
from merging.preflight.problem import Problem, of_base
from merging.preflight.references import Ask, Locate, broken, resolve_all, unsound
from merging.recipe import Recipe
from merging.recipe.fields import VOCABULARIES, unique

__all__ = ["Opened", "check", "preflight", "prepare", "problems_of"]


def _not_asked(reference: str) -> None:
    """Of folders nothing is asked before they are opened."""


class Opened(NamedTuple):
    """What preflight could open, and all that it found."""

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
    ask: Ask = _not_asked,
) -> Opened:
    """Open a base and checkpoints and report every problem, not only the first.

    Args:
        base_path: the folder of Θ, or what locate takes for it.
        paths: those of checkpoints, adapters and saved vectors.
        names: what to call them; the folders' names if not given.
        vocabularies: what to do where they differ: 'refuse', 'base' or 'union'; see merging.vocabulary.
        locate, ask: as prepare.

    Raises:
        CheckpointError: when the base itself cannot be read; there is nothing to compare with then.
        MismatchError: when others cannot be located either, all in one message.
        RecipeError: for a word that is none of these.
    """
    if vocabularies not in VOCABULARIES:
        raise RecipeError(
            f"vocabulary is {vocabularies!r}, expected one of {', '.join(VOCABULARIES)}."
        )
    names = names or _names(paths)
    given = dict(zip(names, map(str, paths), strict=True))
    found, errors = resolve_all([str(base_path), *given.values()], locate, ask)
    if (
        len(found) + len(errors) < len({str(base_path), *given.values()})
        or str(base_path) in errors
    ):
        raise _together(list(errors.values()))  # what is sound was not downloaded
    try:
        base = Checkpoint(found[str(base_path)])
    except MergingError as error:
        others = unsound((found[path], False) for path in given.values() if path in found)
        raise _together([error, *errors.values(), *others]) from None
    missing = [
        Problem("error", name, str(errors[path])) for name, path in given.items() if path in errors
    ]
    opened = _open(
        base, {name: found[path] for name, path in given.items() if path in found}, vocabularies
    )
    problems = of_base(opened.base) + missing + opened.problems + _alike(base, opened.vectors)
    return Opened(opened.base, opened.vectors, problems)


def prepare(
    recipe: Recipe, locate: Locate = Path, out: Path | None = None, ask: Ask = _not_asked
) -> Opened:
    """Open what a recipe names, and report every problem before anything is merged or written.

    Args:
        recipe: what to merge.
        locate: a reference as written -> a folder.
        out: the folder to make; room on its disk is looked for if it is given.
        ask: raises what locate would raise, without the weights; asked of all hub ids before one is downloaded.

    Returns:
        base and vectors, and what the user should know.

    Raises:
        MergingError: with all errors in one message.
    """
    folders, missing = resolve_all(references(recipe), locate, ask)
    if missing:
        raise _together([*missing.values(), *_everything_wrong(recipe, folders)])
    try:
        base, vectors = open_recipe(recipe, folders.__getitem__)
    except MergingError as error:
        raise _together([error, *_everything_wrong(recipe, folders)]) from None
    problems = problems_of(recipe, base, vectors)
    if not any(problem.severity == "error" for problem in problems):
        problems += _of_work(recipe, base, vectors, out)
    return Opened(base, vectors, _none_wrong(problems))


def check(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> list[Problem]:
    """Compare each vector of a recipe with the base; what the user should know.

    Raises:
        MismatchError: with all errors in one message.
    """
    return _none_wrong(problems_of(recipe, base, vectors))


def problems_of(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> list[Problem]:
    """All that check finds, errors too."""
    problems = of_base(base) + without_effect(recipe) + shadowed(recipe, base)
    alike = (
        not recipe.slices or recipe.slices_aligned
    )  # other layers of one model are no more alike than other models
    related = alike and not recipe.allow_unrelated and recipe.method != "linear"
    for source in recipe.models:
        problems += compare(base, vectors[source.name], related=related)
    if not recipe.slices:
        named = {source.name: vectors[source.name] for source in recipe.models}
        problems += _alike(base, named, differences=space_of(recipe) == "deltas")
    return problems


def _none_wrong(problems: list[Problem]) -> list[Problem]:
    if errors := [problem.text for problem in problems if problem.severity == "error"]:
        raise MismatchError("\n".join(errors))
    return problems


def _open(
    base: Checkpoint, folders: Mapping[str, Path], how: str, *, related: bool = True
) -> Opened:
    """Every vector that can be opened; those of a vocabulary that is refused are looked at, and left out."""
    problems: list[Problem] = []
    sound: dict[str, Path] = {}
    refused: dict[str, Path] = {}
    for name, folder in folders.items():
        try:
            tuned = Checkpoint(folder) if is_whole(folder) else None
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
        view.note = ""  # nothing is done with it
    vectors: dict[str, Vector] = {}
    for name in [name for name in folders if name in sound or name in refused]:
        here = arrangement if name in sound else aside
        try:
            vector = open_vector(folders[name], base, name, here)
            problems += compare(here.base, vector, related=related)
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
    """The vocabularies as they are wanted; where that cannot be, the base's rows, so that what else is wrong is found."""
    try:
        return arrange(base, folders, how), []
    except MismatchError as error:
        lines = str(error).splitlines()
        return arrange(base, folders, "base"), [
            Problem("error", line.partition(":")[0], line) for line in lines
        ]


def _everything_wrong(recipe: Recipe, folders: Mapping[str, Path]) -> Sequence[MergingError | str]:
    """Every error of the folders that a recipe names, where it could not be opened."""
    place = references(recipe)[0]
    try:
        base = None if recipe.slices or place not in folders else Checkpoint(folders[place])
    except MergingError:
        base = None
    if base is None:
        return broken(recipe, folders)
    there = {
        source.name: folders[source.location]
        for source in recipe.models
        if source.location in folders
    }
    related = not recipe.allow_unrelated and recipe.method != "linear"
    problems = of_base(base) + _open(base, there, recipe.vocabulary, related=related).problems
    return [problem.text for problem in problems if problem.severity == "error"]


def _together(errors: Sequence[MergingError | str]) -> MergingError:
    """One error with a line for each of several; one alone stays as it is."""
    lines: list[str] = []
    for error in errors:
        lines += [str(error)] if str(error) not in "\n".join(lines) else []
    first = errors[0]
    return (
        first
        if len(lines) == 1 and isinstance(first, MergingError)
        else MismatchError("\n".join(lines))
    )


def _names(paths: Sequence[str | Path]) -> list[str]:
    """The folders' names, numbered where two are alike."""
    names: list[str] = []
    for path in paths:
        names.append(unique(Path(path).resolve().name, names))
    return names


def _alike(
    base: Checkpoint, vectors: Mapping[str, Vector], *, differences: bool = True
) -> list[Problem]:
    """Checkpoints that are given twice, and those that are the base itself."""
    problems = []
    seen: dict[str, str] = {}
    for name, vector in vectors.items():
        if differences and vector.digest == base.digest:
            message = (
                f"{name} ({vector.path}) has the base's weights: its distribution vector is 0."
            )
            problems.append(
                Problem(
                    "warning",
                    name,
                    message,
                    "Give the checkpoint after fine-tuning, or leave it out.",
                )
            )
        if vector.digest and vector.digest in seen:
            message = f"{name} ({vector.path}) has the same weights as {seen[vector.digest]}: its ω counts on top of the other's."
            problems.append(Problem("warning", name, message, "Leave one of them out."))
        seen.setdefault(vector.digest, name)
    return problems


def _of_work(
    recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector], out: Path | None
) -> list[Problem]:
    """What the recipe's settings, the disk and the memory say against carrying it out."""
    try:
        if (
            recipe.definition.closed_form is not None
        ):  # its ω are computed from all weights: not yet
            todo = [_whole_task(recipe, base, name) for name in base]
        else:
            todo = tasks(recipe, base, vectors)
    except MergingError as error:
        return [Problem("error", "recipe", str(error))]
    return room.memory(todo, base) + (room.disk(todo, out) if out is not None else [])


def _whole_task(recipe: Recipe, base: Checkpoint, name: str) -> Task:
    info = base.info(name)
    names = tuple(source.name for source in recipe.models)
    return Task(name, info.shape, out_dtype_of(recipe, info.dtype), recipe.definition, names)
