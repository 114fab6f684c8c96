"""Where the folders of a merge are, and which of them cannot be read: all of them, not only the first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from merging.errors import MergingError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.hub import is_hub_id
from merging.inputs.lora_vector import read_adapter
from merging.inputs.saved_vector import is_saved_vector
from merging.opening.open import references
from merging.paths import DELTAS, is_adapter
from merging.recipe import Recipe

Locate = Callable[[str], Path]
"""A reference as written -> its folder; see merging.inputs.hub.locate."""
Ask = Callable[[str], object]
"""Raises what Locate would raise, and downloads no weights; see merging.inputs.hub.ask."""


def resolve_all(
    wanted: Sequence[str], locate: Locate, ask: Ask
) -> tuple[dict[str, Path], dict[str, MergingError]]:
    """The folders that there are, and why the others cannot be had.

    Where one of several hub ids cannot be had, none is downloaded: gigabytes for nothing.

    Args:
        wanted: references, in the order in which they are told.
        locate, ask: see Locate and Ask.
    """
    hub = [reference for reference in wanted if is_hub_id(reference)]
    errors: dict[str, MergingError] = {}
    for reference in hub if len(hub) > 1 else []:
        try:
            ask(reference)
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


def broken(recipe: Recipe, folders: Mapping[str, Path]) -> list[MergingError]:
    """What is wrong with each folder of a recipe by itself, where there is no base to compare it with."""
    there = [reference for reference in references(recipe) if reference in folders]
    return unsound((folders[reference], _is_model(recipe, reference)) for reference in there)


def unsound(folders: Iterable[tuple[Path, bool]]) -> list[MergingError]:
    """Why folders cannot be opened, of those that cannot; beside each, whether it must be a full model."""
    errors = []
    for folder, whole in folders:
        try:
            _open_alone(folder, whole=whole)
        except MergingError as error:
            errors.append(error)
    return errors


def _is_model(recipe: Recipe, reference: str) -> bool:
    """Whether a reference must be a full model: a base, or one whose layers are taken."""
    adapters = [source.lora for source in recipe.models]
    if recipe.slices:
        return reference not in adapters
    return reference == references(recipe)[0]


def _open_alone(folder: Path, *, whole: bool) -> None:
    """Raise a CheckpointError for a folder that cannot be opened."""
    if not whole and is_adapter(folder):
        read_adapter(folder)
    else:
        Checkpoint(folder, file=DELTAS if not whole and is_saved_vector(folder) else None)
