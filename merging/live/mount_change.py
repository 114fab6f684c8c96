"""Computes by how much a slider move changes each adapter's factor from the settled weights.

The settled weights are those of the last composition, which the module holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from merging.engine import low_rank
from merging.engine.task import Task
from merging.errors import NotMounted
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import Vector
from merging.recipe import Recipe

Change = dict[str, dict[str, float]]
"""Tensor -> adapter -> its new factor less its settled one; without adapters that do not move."""


def check(settled: Recipe, wanted: Recipe) -> None:
    """Refuses a move that is not a change of the factors of a sum of vectors.

    Raises:
        NotMounted: if the method is not linear, or more than ω and parameters changed.
    """
    if not wanted.definition.linear:
        raise NotMounted(
            f"{wanted.method} is not linear in the vectors, so a move is not a sum of low-rank "
            "products."
        )
    moved = replace(
        settled, models=wanted.models, parameters=wanted.parameters, inputs=wanted.inputs
    )
    if moved != wanted:
        raise NotMounted(
            "the settled weights differ from this recipe in more than ω and the method's "
            "parameters."
        )


def change(
    settled: Sequence[Task], wanted: Sequence[Task], vectors: Mapping[str, Vector]
) -> Change:
    """Returns the differences of the factors between two compositions of one base.

    Worked example: task arithmetic at λ = 2, where the adapter's ω moves from 0.25 to 0.75 and the
    checkpoint's ω stays: {"layer.weight": {"lora": 1.0}}.

    Args:
        settled: the tasks of the composition that the module holds.
        wanted: the tasks at the sliders' present positions, for the same tensors.
        vectors: the vectors that both name.

    Raises:
        NotMounted: if a vector moves that is not an adapter, or the base's own factor changes.
    """
    cache: dict[tuple[object, ...], list[float]] = {}

    def factors(task: Task) -> dict[str, float]:
        """Returns vector -> its factor; {} for a tensor that is copied from the base."""
        if not task.vectors:
            return {}
        key = (task.omegas, task.arguments, task.depth)  # most tensors share theirs
        if key not in cache:
            cache[key] = low_rank.factors_of(task)
        return dict(zip(task.vectors, cache[key], strict=True))

    changes: Change = {}
    for before, after in zip(settled, wanted, strict=True):
        if (before.vectors, before.omegas, before.arguments) == (
            after.vectors,
            after.omegas,
            after.arguments,
        ):
            continue
        was, now = factors(before), factors(after)
        moved = {name: now.get(name, 0.0) - was.get(name, 0.0) for name in was | now}
        moved = {name: by for name, by in moved.items() if by}
        # A weighted sum of weights holds the base with the sum of the factors. If that sum changes,
        # so does the base's share, and the base is a matrix of full rank.
        if "weights" in (before.space, after.space) and abs(sum(moved.values())) > low_rank.NOISE:
            raise NotMounted(
                f"{after.method.name} without normalize scales the base too, and the base is not a "
                "low-rank product."
            )
        if full := [name for name in moved if not isinstance(vectors[name], LoraVector)]:
            raise NotMounted(
                f"{full[0]} moves too, and it is not an adapter: its difference is not a low-rank "
                "product."
            )
        # An adapter that does not change this tensor may be in its task, for example because its ω
        # counts in the divisor. It has no product to mount.
        if present := {name: by for name, by in moved.items() if after.name in vectors[name]}:
            changes[after.name] = present
    return changes
