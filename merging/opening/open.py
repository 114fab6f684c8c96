"""From folders to base and vectors: decides what a folder holds, and opens what a recipe names."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from merging.engine import recipe_statistics
from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.hub import is_hub_id
from merging.inputs.lora_vector import LoraVector
from merging.inputs.saved_vector import SavedVector, is_saved_vector
from merging.inputs.vector import DistributionVector, Vector
from merging.inputs.vocabulary.align import Arrangement, arrange
from merging.opening.stacked import open_slices
from merging.paths import is_adapter
from merging.recipe import Recipe


def open_vector(
    path: str | Path,
    base: Checkpoint,
    name: str | None = None,
    arrangement: Arrangement | None = None,
) -> Vector:
    """The distribution vector of a folder: a fine-tuned checkpoint, a PEFT LoRA adapter, or a saved vector.

    Args:
        path: the folder.
        base: Θ.
        name: what to call it; the folder's name if not given.
        arrangement: of the vocabularies, where the recipe asks for one; see merging.vocabulary.

    Raises:
        CheckpointError: when the folder cannot be read.
        MismatchError: when it does not fit the base.
    """
    folder = Path(path)
    name = name or folder.resolve().name
    arrangement = arrangement or Arrangement(base, {})
    if is_adapter(folder):
        return arrangement.fitted(LoraVector(folder, base, name))
    if is_saved_vector(folder):
        return arrangement.fitted(SavedVector(folder, base, name))
    tuned = arrangement.tuned[name] if name in arrangement.tuned else Checkpoint(folder)
    return DistributionVector(name, arrangement.base, tuned)


def open_recipe(
    recipe: Recipe, locate: Callable[[str], Path] = Path
) -> tuple[Checkpoint, dict[str, Vector]]:
    """The base and the vectors that a recipe names, checked against the digests in it where it has some.

    Args:
        recipe: what to open.
        locate: a reference as written -> a folder.

    Raises:
        CheckpointError, MismatchError: as open_vector.
        RecipeError: for a reference that this version does not read.
    """
    if recipe.slices:
        restacked, columns = open_slices(recipe, locate)
        for name, digest in _digests(restacked, columns).items():
            _same_input(recipe, name, digest)
        return restacked, columns
    base_reference = recipe.base or recipe.models[0].path
    base = Checkpoint(locate(_pinned(recipe, base_reference)))
    _same_input(recipe, "base", base.digest)
    folders = {source.name: locate(source.location) for source in recipe.models}
    arrangement = arrange(base, folders, recipe.vocabulary)
    vectors: dict[str, Vector] = {}
    for source in recipe.models:
        if source.lora is not None and not _same_folder(
            locate(_pinned(recipe, source.path)), base.path
        ):
            raise RecipeError(
                f"{source.path}+{source.lora}: an adapter is read on the recipe's base ({base_reference}) only. "
                "Merge it into its own base with peft's merge_and_unload and name the result."
            )
        vectors[source.name] = open_vector(folders[source.name], base, source.name, arrangement)
        _same_input(recipe, _of_model(source.name), vectors[source.name].digest)
    if any(_of_statistics(source.name) in recipe.inputs for source in recipe.models):
        for name, file in recipe_statistics.statistics_of(recipe).items():
            _same_input(recipe, _of_statistics(name), file.stored.digest, ("statistics", "file"))
    return arrangement.base, vectors


def references(recipe: Recipe) -> list[str]:
    """Every folder and hub id that open_recipe looks up, each once, the base first."""
    base = recipe.base or recipe.models[0].path
    if recipe.slices:
        found = [
            recipe.base,
            *(place for source in recipe.models for place in (source.path, source.lora)),
        ]
    else:
        bases = [
            _pinned(recipe, source.path) for source in recipe.models if source.lora is not None
        ]
        found = [_pinned(recipe, base), *(source.location for source in recipe.models), *bases]
    return list(dict.fromkeys(reference for reference in found if reference is not None))


def with_identities(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> Recipe:
    """The recipe with the digests of what it is carried out on, and the commit of a base from the hub's cache.

    That of a file of statistics covers the norm of all its values, which stands in its header.
    """
    digests = _digests(base, vectors) | {
        _of_statistics(name): file.stored.digest
        for name, file in recipe_statistics.statistics_of(recipe).items()
    }
    return replace(
        recipe,
        inputs=digests,
        revision=base.path.name if base.path.parent.name == "snapshots" else "",
    )


def _pinned(recipe: Recipe, reference: str) -> str:
    """A reference to the base with the commit that the recipe was made at, where it is a hub id without a revision."""
    same = reference == recipe.base and recipe.revision and "@" not in reference
    return f"{reference}@{recipe.revision}" if same and is_hub_id(reference) else reference


def _same_folder(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _digests(base: Checkpoint, vectors: Mapping[str, Vector]) -> dict[str, str]:
    return {"base": base.digest} | {
        _of_model(name): vector.digest for name, vector in vectors.items()
    }


def _of_model(name: str) -> str:
    """What dem.inputs calls a model: its name, but for one that is called as the base is there."""
    return "model base" if name == "base" else name


def _of_statistics(name: str) -> str:
    """What dem.inputs calls the file of statistics of a model."""
    return f"statistics of {name}"


def _same_input(
    recipe: Recipe, name: str, digest: str, kind: tuple[str, str] = ("weights", "folder")
) -> None:
    expected, (content, place) = recipe.inputs.get(name), kind
    if expected is not None and expected != digest:
        raise MismatchError(
            f"{name}: the recipe was made for {content} with digest {expected[:12]}…, the {place} holds {digest[:12]}…. "
            f"Give the {place} that the recipe was made for, or remove dem.inputs from the recipe to use this one."
        )
