"""What a move of sliders changes: by how much each adapter's factor differs from the settled one, tensor by tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from merging.engine import low_rank
from merging.engine.tasks import Task
from merging.errors import NotMounted
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import Vector
from merging.recipe import Recipe

Change = dict[str, dict[str, float]]
"""Tensor -> adapter -> its factor now, less its factor in the settled weights; without those that are 0."""

NOISE = 1e-12
"""By how much factors that are divided by their sum may differ from 1 in all: the rounding of float64."""


def check(settled: Recipe, wanted: Recipe) -> None:
    """Refuse a move that is not one of sliders of a sum.

    Raises:
        NotMounted: saying why.
    """
    if not wanted.definition.linear:
        raise NotMounted(
            f"{wanted.method} is not linear in the vectors, so that a move is no sum of low-rank products."
        )
    moved = replace(
        settled, models=wanted.models, parameters=wanted.parameters, inputs=wanted.inputs
    )
    if moved != wanted:
        raise NotMounted(
            "the settled weights are of other settings than ω and the method's parameters."
        )


def change(
    settled: Sequence[Task], wanted: Sequence[Task], vectors: Mapping[str, Vector]
) -> Change:
    """By how much the factors differ between two compositions of one base.

    Worked example: task arithmetic at λ = 2, the adapter's ω moved from 0.25 to 0.75, the checkpoint's stays:
    {"layer.weight": {"lora": 1.0}}.

    Args:
        settled: the tasks of what the module holds.
        wanted: those of where the sliders are.
        vectors: what both name.

    Raises:
        NotMounted: where a vector moves that is no adapter, or the base's own share changes.
    """
    known: dict[tuple[object, ...], list[float]] = {}

    def factors(task: Task) -> dict[str, float]:
        if not task.vectors:
            return {}
        key = (task.omegas, task.arguments, task.depth)  # most tensors share theirs
        if key not in known:
            known[key] = low_rank.factors_of(task)
        return dict(zip(task.vectors, known[key], strict=True))

    found: Change = {}
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
        if "weights" in (before.space, after.space) and abs(sum(moved.values())) > NOISE:
            raise NotMounted(
                f"{after.method.name} without normalize scales the base too, which is no low-rank product."
            )
        if full := [name for name in moved if not isinstance(vectors[name], LoraVector)]:
            raise NotMounted(
                f"{full[0]} moves too, and it is no adapter: its difference is no low-rank product."
            )
        if reached := {name: by for name, by in moved.items() if after.name in vectors[name]}:
            found[after.name] = reached
    return found
