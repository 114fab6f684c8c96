"""Writes a composition of adapters as one PEFT adapter, exact or truncated to a rank.

Σ ω_i s_i B_i A_i = [ω₁s₁B₁, ω₂s₂B₂, …]·[A₁; A₂; …]: a sum of products is a product of rank Σ r_i.
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
    """Writes a composition of adapters as one adapter.

    Its dtype is the recipe's. If the recipe names none, it is float32, or float64 for a float64
    base.

    Args:
        recipe: task arithmetic over adapters; ω may differ from tensor to tensor.
        base: Θ.
        vectors: the adapters that the recipe names.
        out: the folder to make; it must not exist.
        rank: the largest rank of any tensor; None is exact, of rank Σ r_i.
        progress: called with 'factor' and the tensors done, then with 'verify' and bytes. It may
            raise to cancel.
        command: the command line that repeats the export, for the model card.

    Returns:
        rank and error of each tensor.

    Raises:
        RecipeError: if a vector is not an adapter, the method is not a sum, or nothing moves the
            base.
        MismatchError: if adapters disagree about a module.
        ExportError: if the folder cannot be written.
    """
    low_rank.check_rank(rank)
    adapters = _adapters(recipe, vectors)
    todo = [task for task in tasks(recipe, base, vectors) if task.vectors]
    dtype = file_dtype(recipe.out_dtype or recipe.dtype, base, [task.name for task in todo])
    # An upper bound: an adapter may have a lower rank at this tensor than its largest.
    nbytes = [
        min(sum(adapters[name].rank for name in task.vectors), rank or 2**31)
        * sum(task.shape)
        * dtype.itemsize
        for task in todo
    ]

    def parts() -> Iterator[AdapterPart]:
        """Yields the tensors of the adapter one by one, reporting progress."""
        for number, task in enumerate(todo, 1):
            yield _compose(task, adapters, rank, dtype)
            progress("factor", number, len(todo))

    about = About(
        "A composition of adapters", formula(recipe), recipe.base or str(base.path), command, recipe
    )
    return write_adapter(out, base, parts(), about, nbytes=sum(nbytes), progress=progress)


def _compose(
    task: Task, adapters: Mapping[str, LoraVector], rank: int | None, dtype: torch.dtype
) -> AdapterPart:
    """Computes one tensor's part: the sum of the products, truncated if a rank is given."""
    terms = [
        (factor, adapters[name])
        for factor, name in zip(low_rank.coefficients(task), task.vectors, strict=True)
        if task.name in adapters[name]
    ]
    module = _module(task.name, [adapter for _, adapter in terms])
    exact = low_rank.concatenate(
        [(factor, adapter.factors(task.name)) for factor, adapter in terms]
    )
    # Before the decomposition, whose own error would not name the tensor.
    for factor in exact:
        refuse_not_finite(task.name, factor)
    norm = low_rank.norm(exact)
    # Products that cancel to noise become a product of rank 0, which is not stored.
    kept = low_rank.truncate(exact, rank or 0) if rank or not norm else exact
    stored = kept.to(dtype)
    # Against what is stored, so that the error includes the rounding to the file's dtype.
    error = low_rank.norm(low_rank.difference(exact, stored.to(torch.float64)))
    return AdapterPart(module, stored, TensorFit(task.name, stored.rank, norm, error))


def _adapters(recipe: Recipe, vectors: Mapping[str, Vector]) -> dict[str, LoraVector]:
    """Returns the recipe's vectors; raises a RecipeError if one of them is not an adapter."""
    adapters = {}
    for source in recipe.models:
        vector = vectors[source.name]
        if not isinstance(vector, LoraVector):
            raise RecipeError(
                f"{source.name} ({source.location}) is not an adapter, and only a composition of "
                "adapters is an adapter. Use --as-adapter only if all models of the recipe are "
                "adapters; leave it out to get a full model, or make an adapter of the checkpoint "
                "first: dem extract BASE CHECKPOINT OUT --rank N."
            )
        adapters[source.name] = vector
    return adapters


def _module(name: str, adapters: Sequence[LoraVector]) -> Module:
    """Returns PEFT's name of a tensor's module, as the adapters that change the tensor give it.

    Adapters may have been saved with paths of different lengths. The longest one is taken.
    """
    modules = set()
    for adapter in adapters:
        target = adapter.targets[name]
        path, _, end = target.a.removeprefix("base_model.model.").rpartition(".lora_")
        modules.add(Module(path, target.transposed, end.startswith("embedding")))
    if len({module[1:] for module in modules}) > 1:
        raise MismatchError(
            f"{listed([adapter.name for adapter in adapters])} disagree about the orientation of "
            f"{name!r} (fan_in_fan_out), so one of them would be added transposed. "
            "Save the one that is wrong again with peft."
        )
    return max(modules, key=lambda module: len(module.path))
