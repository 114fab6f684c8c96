"""A composition of adapters as one PEFT adapter, exact or truncated.

Σ ω_i s_i B_i A_i = [ω₁s₁B₁, ω₂s₂B₂, …]·[A₁; A₂; …]: a sum of products is a product, of rank Σ r_i.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from merging.engine import low_rank
from merging.engine.tasks import Task, tasks
from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.lora_vector import LoraVector
from merging.inputs.manifest import Progress
from merging.inputs.vector import Vector
from merging.outputs.adapter_card import About
from merging.outputs.adapter_fit import Fit, TensorFit
from merging.outputs.adapter_folder import (
    AdapterPart,
    Module,
    file_dtype,
    refuse_not_finite,
    write_adapter,
)
from merging.recipe import Recipe
from merging.recipe.formula import formula
from plumbing.suggest import listed


def export_adapter(
    recipe: Recipe,
    base: Checkpoint,
    vectors: Mapping[str, Vector],
    out: str | Path,
    *,
    rank: int | None = None,
    progress: Progress = lambda stage, done, total: None,
    command: str = "",
) -> Fit:
    """Write a composition of adapters as one adapter, in the recipe's dtype, or float32 where it names none.

    Args:
        recipe: task arithmetic over adapters; ω may differ from tensor to tensor.
        base: Θ.
        vectors: the adapters that the recipe names.
        out: the folder to make; it must not exist.
        rank: the most for any tensor; None is exact, of rank Σ r_i.
        progress: called with 'factor' and tensors done, then with 'verify' and bytes. May raise to cancel.
        command: the command line that repeats the export, for the card.

    Returns:
        rank and error of each tensor.

    Raises:
        RecipeError: when a vector is no adapter, the method is not a sum, or nothing moves the base.
        MismatchError: when adapters disagree about a module.
        ExportError: when the folder could not be written.
    """
    low_rank.check_rank(rank)
    adapters = _adapters(recipe, vectors)
    todo = [task for task in tasks(recipe, base, vectors) if task.vectors]
    dtype = file_dtype(recipe.out_dtype or recipe.dtype, base, [task.name for task in todo])
    most = [
        min(sum(adapters[name].rank for name in task.vectors), rank or 2**31)
        * sum(task.shape)
        * dtype.itemsize
        for task in todo
    ]

    def parts() -> Iterator[AdapterPart]:
        for number, task in enumerate(todo, 1):
            yield _composed(task, adapters, rank, dtype)
            progress("factor", number, len(todo))

    about = About(
        "A composition of adapters", formula(recipe), recipe.base or str(base.path), command, recipe
    )
    return write_adapter(out, base, parts(), about, nbytes=sum(most), progress=progress)


def _composed(
    task: Task, adapters: Mapping[str, LoraVector], rank: int | None, dtype: torch.dtype
) -> AdapterPart:
    """One tensor: the sum of the adapters' products there, truncated if asked for."""
    terms = [
        (factor, adapters[name])
        for factor, name in zip(low_rank.coefficients(task), task.vectors, strict=True)
        if task.name in adapters[name]
    ]
    module = _module(task.name, [adapter for _, adapter in terms])
    exact = low_rank.joined([(factor, adapter.factors(task.name)) for factor, adapter in terms])
    for factor in exact:
        refuse_not_finite(task.name, factor)
    norm = low_rank.norm(exact)
    # A product of rank 0 is what a zero matrix is stored as: not at all.
    kept = low_rank.truncated(exact, rank or 0) if rank or not norm else exact
    stored = kept.to(dtype)
    error = low_rank.norm(low_rank.difference(exact, stored.to(torch.float64)))
    return AdapterPart(module, stored, TensorFit(task.name, stored.rank, norm, error))


def _adapters(recipe: Recipe, vectors: Mapping[str, Vector]) -> dict[str, LoraVector]:
    """The recipe's vectors, all of them adapters."""
    found = {}
    for source in recipe.models:
        vector = vectors[source.name]
        if not isinstance(vector, LoraVector):
            raise RecipeError(
                f"{source.name} ({source.location}) is no adapter, and only a composition of adapters is one adapter. "
                "Use --as-adapter only where all models of the recipe are adapters; leave it out to get a full model, or "
                "make an adapter of the checkpoint first: dem extract BASE CHECKPOINT OUT --rank N."
            )
        found[source.name] = vector
    return found


def _module(name: str, adapters: Sequence[LoraVector]) -> Module:
    """What PEFT calls the module of a tensor, as the adapters that reach it say; of two paths the fuller one."""
    found = set()
    for adapter in adapters:
        target = adapter.targets[name]
        path, _, end = target.a.removeprefix("base_model.model.").rpartition(".lora_")
        found.add(Module(path, target.transposed, end.startswith("embedding")))
    if len({module[1:] for module in found}) > 1:
        raise MismatchError(
            f"{listed([adapter.name for adapter in adapters])} disagree how {name!r} stands (fan_in_fan_out), so that "
            "one of them would be added transposed. Save the one that is wrong again with peft."
        )
    return max(found, key=lambda module: len(module.path))
