"""Warns where equality was checked with a digest of an earlier version, which covers samples only.

Two fine-tunes that differ in one small tensor may share such a digest.
"""

from collections.abc import Mapping

from merging.engine import recipe_statistics
from merging.inputs.sampled_digest import is_sampled
from merging.inputs.saved_vector import SavedVector
from merging.inputs.vector import Vector
from merging.preflight.problem import Problem
from merging.recipe import Recipe
from plumbing.suggest import listed

PARTIAL = "of an earlier version, which covers samples of the weights, not every tensor"


def old_inputs(recipe: Recipe) -> list[Problem]:
    """Returns a warning if dem.inputs has sampled digests; one for each such file of statistics."""
    problems = []
    if names := [name for name, digest in recipe.inputs.items() if is_sampled(digest)]:
        message = f"dem.inputs: the digest of {listed(names)} is {PARTIAL}. The samples agree."
        fix = "An export's own recipe.yml has digests that cover all: use it from now on."
        problems.append(Problem("warning", "recipe", message, fix))
    for name, file in recipe_statistics.statistics_of(recipe).items():
        if is_sampled(file.facts.model):
            message = f"{name}: {file.path} names its model by a digest {PARTIAL}."
            problems.append(Problem("warning", name, message, "Collect the statistics again."))
    return problems


def old_vectors(vectors: Mapping[str, Vector]) -> list[Problem]:
    """Returns a warning for each saved vector that names its base by a sampled digest."""
    return [
        Problem(
            "warning",
            name,
            f"{name} ({vector.path}) names its base by a digest {PARTIAL}.",
            "Save it again with dem vector.",
        )
        for name, vector in vectors.items()
        if isinstance(vector, SavedVector) and is_sampled(vector.facts.base)
    ]
