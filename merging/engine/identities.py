"""Writes the digests of a merge's inputs into its recipe (dem.inputs), and compares them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from merging.engine import recipe_statistics
from merging.errors import MismatchError
from merging.inputs.checkpoint import Checkpoint, Weights
from merging.inputs.sampled_digest import HasDigests, digest_like, is_sampled
from merging.inputs.statistics import Statistics
from merging.inputs.vector import Vector
from merging.recipe.recipe import Recipe


class _Input(NamedTuple):
    """An input of a merge: its key in dem.inputs, and words for messages."""

    key: str
    subject: HasDigests
    content: str = "weights"
    container: str = "folder"


def with_identities(
    recipe: Recipe,
    base: Checkpoint,
    vectors: Mapping[str, Vector],
    statistics: Mapping[str, Statistics] | None = None,
) -> Recipe:
    """Returns the recipe with the digests of its inputs, and the commit of a base from the hub.

    Such a recipe can be repeated exactly. The digests cover every tensor: inputs that were not read
    since `gather`, and whose digests are not in the user's cache, are read for it.

    Args:
        recipe: the merge.
        base: Θ.
        vectors: the vectors that the recipe names.
        statistics: the files of statistics that are open, by vector; others are opened.
    """
    return replace(
        without_identities(recipe, base),
        inputs={
            known.key: known.subject.digest for known in _inputs(recipe, base, vectors, statistics)
        },
    )


def without_identities(recipe: Recipe, base: Checkpoint) -> Recipe:
    """Returns the recipe as it can be known before the weights are read: without digests.

    It has the commit of a base from the hub.
    """
    # A folder of the hub's cache is named by its commit: models--org--name/snapshots/<commit>.
    commit = base.path.name if base.path.parent.name == "snapshots" else ""
    return replace(recipe, inputs={}, revision=commit)


def check_identities(
    recipe: Recipe,
    base: Checkpoint | None = None,
    vectors: Mapping[str, Vector] | None = None,
    *,
    cheap: bool = False,
) -> None:
    """Raises an error if the recipe has another digest for an input; what it lacks is not checked.

    Digests of earlier versions are compared with the same samples of the input.

    Args:
        recipe: the merge.
        base: Θ; None leaves it out.
        vectors: the opened vectors by name. With all of a recipe's models, its files of statistics
            are compared too.
        cheap: only digests of earlier versions, for which little is read.

    Raises:
        MismatchError: the message names the input and both digests.
    """
    for known in _inputs(recipe, base, vectors or {}, None, among=recipe.inputs):
        expected = recipe.inputs[known.key]
        if cheap and not is_sampled(expected):
            continue
        actual = digest_like(expected, known.subject)
        if expected != actual:
            raise MismatchError(
                f"{known.key}: the recipe was made for {known.content} with digest "
                f"{expected[:12]}…, the {known.container} holds {actual[:12]}…. Give the "
                f"{known.container} that the recipe was made for, or remove dem.inputs from the "
                "recipe to use this one."
            )


def gather(weights: Iterable[Weights | Vector]) -> None:
    """Hashes what is read of weights and vectors from now on; see Checkpoint.gather_digest."""
    for one in weights:
        if isinstance(one, Checkpoint | Vector):
            one.gather_digest()


def _inputs(
    recipe: Recipe,
    base: Checkpoint | None,
    vectors: Mapping[str, Vector],
    statistics: Mapping[str, Statistics] | None,
    among: Mapping[str, str] | None = None,
) -> Iterator[_Input]:
    """Yields the inputs of a recipe as dem.inputs names them.

    Args:
        recipe: the merge.
        base: Θ; None leaves it out.
        vectors: the opened vectors by name.
        statistics: the files of statistics that are open, by vector; others are opened.
        among: yields only inputs with these keys; all if None.
    """
    if base is not None and (among is None or "base" in among):
        yield _Input("base", base)
    for name, vector in vectors.items():
        # A model may be called 'base', which is the key of the base.
        key = "model base" if name == "base" else name
        if among is None or key in among:
            yield _Input(key, vector)
    # Opened only if they are asked for: most recipes have none.
    keys = {f"statistics of {source.name}": source.name for source in recipe.models}
    if not vectors or not (among is None or among.keys() & keys.keys()):
        return
    files = {**recipe_statistics.statistics_of(recipe), **(statistics or {})}
    for key, name in keys.items():
        if name in files and (among is None or key in among):
            yield _Input(key, files[name], "statistics", "file")
