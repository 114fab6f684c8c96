"""Opens the base and the vectors of a recipe, whatever kind of folder each model is."""

from collections.abc import Callable
from pathlib import Path

from merging.engine.identities import check_identities
from merging.errors import RecipeError
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
    """Opens a folder as a distribution vector.

    The folder may hold a fine-tuned checkpoint, a PEFT LoRA adapter, or a saved vector.

    Args:
        path: the folder.
        base: Θ.
        name: the vector's name; the folder's name if not given.
        arrangement: base and checkpoints brought to one vocabulary, if the recipe asks for it; see
            merging.inputs.vocabulary.align.

    Raises:
        CheckpointError: if the folder cannot be read.
        MismatchError: if it does not fit the base.
    """
    folder = Path(path)
    name = name or folder.resolve().name
    arrangement = arrangement or Arrangement(base, {})
    # Adapters and saved vectors are opened on the base as it is on disk, whose shapes they have.
    if is_adapter(folder):
        return arrangement.fitted(LoraVector(folder, base, name))
    if is_saved_vector(folder):
        return arrangement.fitted(SavedVector(folder, base, name))
    tuned = arrangement.tuned[name] if name in arrangement.tuned else Checkpoint(folder)
    return DistributionVector(name, arrangement.base, tuned)


def open_recipe(
    recipe: Recipe, locate: Callable[[str], Path] = Path, *, check_inputs: bool = True
) -> tuple[Checkpoint, dict[str, Vector]]:
    """Opens the base and the vectors that a recipe names.

    If the recipe has digests (dem.inputs), what is opened must have them.

    Args:
        recipe: the recipe to open.
        locate: returns the folder of a reference as written in the recipe.
        check_inputs: compare the digests now, which reads all weights whose digests are not in the
            user's cache. False for a caller that hands the recipe to `export`, which compares them
            when it has read the weights.

    Returns:
        the base, and name -> vector in the recipe's order.

    Raises:
        CheckpointError: if a folder cannot be read.
        MismatchError: if a model does not fit the base, or a digest is not the recipe's.
        RecipeError: if an adapter is to be read on another base than the recipe's.
    """
    if recipe.slices:
        stacked, vectors = open_slices(recipe, locate)
        check_identities(recipe, stacked, vectors, cheap=not check_inputs)
        return stacked, vectors
    # Without base_model (as `linear` allows), the first model gives configuration and tokenizer.
    base_reference = recipe.base or recipe.models[0].path
    base = Checkpoint(locate(_pinned(recipe, base_reference)))
    # Before the vectors: on a wrong base their shapes may not fit, and that message would mislead.
    check_identities(recipe, base, cheap=not check_inputs)
    folders = {source.name: locate(source.location) for source in recipe.models}
    arrangement = arrange(base, folders, recipe.vocabulary)
    vectors = {}
    for source in recipe.models:
        if source.lora is not None and not _same_folder(
            locate(_pinned(recipe, source.path)), base.path
        ):
            raise RecipeError(
                f"{source.path}+{source.lora}: an adapter can only be read on the recipe's base "
                f"({base_reference}). Merge it into its own base with peft's merge_and_unload and "
                "name the result."
            )
        vectors[source.name] = open_vector(folders[source.name], base, source.name, arrangement)
    check_identities(recipe, None, vectors, cheap=not check_inputs)
    return arrangement.base, vectors


def references(recipe: Recipe) -> list[str]:
    """Returns every folder and hub id that open_recipe looks up, each once, the base first."""
    base = recipe.base or recipe.models[0].path
    if recipe.slices:
        named = [
            recipe.base,
            *(path for source in recipe.models for path in (source.path, source.lora)),
        ]
    else:
        # open_recipe also looks up what an adapter names as its base, to compare the folders.
        bases = [
            _pinned(recipe, source.path) for source in recipe.models if source.lora is not None
        ]
        named = [_pinned(recipe, base), *(source.location for source in recipe.models), *bases]
    return list(dict.fromkeys(reference for reference in named if reference is not None))


def _pinned(recipe: Recipe, reference: str) -> str:
    """Returns a reference to the base with the commit for which the recipe was made.

    Any other reference is returned as it is, and so is a base that is a folder or has a revision.
    """
    same = reference == recipe.base and recipe.revision and "@" not in reference
    return f"{reference}@{recipe.revision}" if same and is_hub_id(reference) else reference


def _same_folder(first: Path, second: Path) -> bool:
    # Resolved, because the hub's cache and people use links.
    return first.resolve() == second.resolve()
