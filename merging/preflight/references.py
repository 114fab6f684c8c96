"""Finds the folders of a merge, and reports all of them that cannot be found or read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from merging.errors import MergingError, MismatchError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.hub import is_hub_id
from merging.inputs.lora_config import read_adapter
from merging.inputs.saved_vector import is_saved_vector
from merging.opening.open import references
from merging.paths import DELTAS, is_adapter
from merging.recipe import Recipe
from merging.recipe.fields import unique_name

Locate = Callable[[str], Path]
"""Returns the folder of a reference as written; see merging.inputs.hub.locate."""
Probe = Callable[[str], object]
"""Raises the error that Locate would raise, without downloading weights; see merging.inputs.hub."""


def resolve_all(
    wanted: Sequence[str], locate: Locate, probe: Probe
) -> tuple[dict[str, Path], dict[str, MergingError]]:
    """Locates all references.

    If one of several hub ids is not available, none is downloaded: the merge fails anyway, and
    gigabytes would be downloaded for nothing.

    Args:
        wanted: the references, in the order in which errors are reported.
        locate: see Locate.
        probe: see Probe.

    Returns:
        reference -> folder, and reference -> error for those without a folder. Hub ids that were
        skipped are in neither.
    """
    hub = [reference for reference in wanted if is_hub_id(reference)]
    errors: dict[str, MergingError] = {}
    # A single hub id is not asked about first: locate fails before it downloads weights.
    for reference in hub if len(hub) > 1 else []:
        try:
            probe(reference)
        except MergingError as error:
            errors[reference] = error
    skipped = hub if errors else []
    folders: dict[str, Path] = {}
    for reference in wanted:
        if reference not in skipped:
            try:
                folders[reference] = locate(reference)
            except MergingError as error:
                errors[reference] = error
    return folders, {reference: errors[reference] for reference in wanted if reference in errors}


def recipe_errors(recipe: Recipe, folders: Mapping[str, Path]) -> list[MergingError]:
    """Opens each folder of a recipe by itself and returns the errors.

    For recipes whose base cannot be opened, so that nothing can be compared with it.

    Args:
        recipe: the recipe.
        folders: reference -> folder, for the references that were located.
    """
    located = [reference for reference in references(recipe) if reference in folders]
    return open_errors((folders[reference], _is_model(recipe, reference)) for reference in located)


def open_errors(folders: Iterable[tuple[Path, bool]]) -> list[MergingError]:
    """Opens folders and returns the errors of those that cannot be opened.

    Args:
        folders: folders, each with whether it must be a full model.
    """
    errors = []
    for folder, whole in folders:
        try:
            _open_alone(folder, whole=whole)
        except MergingError as error:
            errors.append(error)
    return errors


def _is_model(recipe: Recipe, reference: str) -> bool:
    """Returns whether a reference must be a full model: the base, or a model of slices."""
    adapters = [source.lora for source in recipe.models]
    if recipe.slices:
        return reference not in adapters
    return reference == references(recipe)[0]


def _open_alone(folder: Path, *, whole: bool) -> None:
    """Raises a CheckpointError if a folder cannot be opened."""
    if not whole and is_adapter(folder):
        # Without a base, factors can be read but not matched with the tensors that they change.
        read_adapter(folder)
    else:
        Checkpoint(folder, file=DELTAS if not whole and is_saved_vector(folder) else None)


def join_errors(errors: Sequence[MergingError | str]) -> MergingError:
    """Returns one error with a line for each; a single error keeps its class."""
    # The same error may come from opening the recipe and from opening its folders one by one.
    lines: list[str] = []
    for error in errors:
        lines += [str(error)] if str(error) not in "\n".join(lines) else []
    first = errors[0]
    return (
        first
        if len(lines) == 1 and isinstance(first, MergingError)
        else MismatchError("\n".join(lines))
    )


def folder_names(paths: Sequence[str | Path]) -> list[str]:
    """Returns the names of folders, with numbers if two are the same."""
    names: list[str] = []
    for path in paths:
        names.append(unique_name(Path(path).resolve().name, names))
    return names
