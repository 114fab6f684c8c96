"""Warns of models that are given twice, and of those that are the base itself."""

from collections.abc import Mapping

from merging.inputs.checkpoint import Checkpoint
from merging.inputs.sampled_digest import same_weights
from merging.inputs.vector import Vector
from merging.preflight.problem import Problem


def duplicates(
    base: Checkpoint, vectors: Mapping[str, Vector], *, differences: bool = True
) -> list[Problem]:
    """Returns warnings for models that are given twice, and for those that are the base itself.

    Weights whose samples are equal are read whole, all others are not.

    Args:
        base: Θ.
        vectors: name -> vector.
        differences: whether the method merges deltas, so that the base itself adds nothing.
    """
    problems = []
    seen: list[str] = []
    for name, vector in vectors.items():
        if differences and same_weights(vector, base):
            message = (
                f"{name} ({vector.path}) has the base's weights: its distribution vector is 0."
            )
            fix = "Give the checkpoint after fine-tuning, or leave it out."
            problems.append(Problem("warning", name, message, fix))
        # Vectors in memory have an empty digest, which tells nothing.
        twin = next((one for one in seen if same_weights(vector, vectors[one])), None)
        if twin and vector.sampled_digest:
            message = (
                f"{name} ({vector.path}) has the same weights as {twin}: its ω is added to the "
                "other's."
            )
            problems.append(Problem("warning", name, message, "Leave one of them out."))
        seen.append(name)
    return problems
