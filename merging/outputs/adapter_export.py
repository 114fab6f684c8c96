"""Writes a composition of adapters as one PEFT adapter, exact or truncated to a rank.

Σ ω_i s_i B_i A_i = [ω₁s₁B₁, ω₂s₂B₂, …]·[A₁; A₂; …]: a sum of products is a product of rank Σ r_i.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from merging.adapter_keys import PREFIX
from merging.engine import low_rank
from merging.engine.identities import check_identities, with_identities
from merging.engine.task import Task
from merging.engine.tasks import tasks
from merging.errors import LoadError, MismatchError, RecipeError
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
from merging.outputs.loaded_modules import NOT_LOADED, LoadedModules, loaded_modules
from merging.recipe import Recipe
from merging.recipe.formula import formula
from plumbing.suggest import listed


class Term(NamedTuple):
    """One product of a sum."""

    factor: float
    adapter: LoraVector
    tensor: str
    """The adapter's name of the tensor; the base may have several."""


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
        recipe: adapters, and a method that is a sum of them; ω may differ from tensor to tensor.
            The base itself may be one of the models of an average.
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
        RecipeError: if a vector is not an adapter, the method is not a sum, the recipe has slices,
            or nothing moves the base.
        MismatchError: if adapters disagree about a module, or an input has another digest than the
            recipe.
        ExportError: if the folder cannot be written.
    """
    low_rank.check_rank(rank)
    adapters = _adapters(recipe, base, vectors)
    todo = _moved(tasks(recipe, base, vectors), adapters)
    dtype = file_dtype(recipe.out_dtype or recipe.dtype, base, [task.name for task, _ in todo])
    # An upper bound: an adapter may have a lower rank at this tensor than its largest.
    nbytes = [
        min(sum(term.adapter.rank for term in terms), rank or 2**31)
        * sum(task.shape)
        * dtype.itemsize
        for task, terms in todo
    ]

    def parts() -> Iterator[AdapterPart]:
        """Yields the tensors of the adapter one by one, reporting progress."""
        for number, (task, terms) in enumerate(todo, 1):
            part = _compose(task.name, terms, rank, dtype)
            path = found.modules.get(task.name, part.module).path
            yield part._replace(module=part.module._replace(path=path))
            progress("factor", number, len(todo))

    found = _in_memory(base, [task.name for task, _ in todo])
    title, named = "A composition of adapters", recipe.base or str(base.path)
    check_identities(recipe, base, vectors)
    known = with_identities(recipe, base, vectors)
    about = About(title, formula(recipe), named, command, known, generates=found.generates)
    return write_adapter(out, base, parts(), about, nbytes=sum(nbytes), progress=progress)


def _moved(
    todo: Sequence[Task], adapters: Mapping[str, LoraVector]
) -> list[tuple[Task, list[Term]]]:
    """Returns the tasks of the tensors that adapters move, each with its terms.

    A tensor that the base stores under several names has the name under which adapters move it.
    """
    moved = []
    for task in todo:
        # Its further names are the same parameter, which moves once.
        if task.repeats:
            continue
        # Also where no adapter moves anything, because a factor on the base counts everywhere.
        factors = low_rank.coefficients(task) if task.vectors else []
        terms = []
        for factor, name in zip(factors, task.vectors, strict=True):
            if name not in adapters:
                continue
            targets = adapters[name].targets
            own = [each for each in task.names or (task.name,) if each in targets]
            # One that was trained with tied modules may have the tensor as the head too.
            own = [each for each in own if targets[each].on_embedding] or own
            terms += [Term(factor, adapters[name], own[0])] if own else []
        moved += [(task._replace(name=terms[0].tensor), terms)] if terms else []
    return moved


def _compose(name: str, terms: Sequence[Term], rank: int | None, dtype: torch.dtype) -> AdapterPart:
    """Computes one tensor's part: the sum of the products, truncated if a rank is given."""
    module = _module(terms)
    exact = low_rank.concatenate(
        [(term.factor, term.adapter.factors(term.tensor)) for term in terms]
    )
    # Before the decomposition, whose own error would not name the tensor.
    for factor in exact:
        refuse_not_finite(name, factor)
    norm = low_rank.norm(exact)
    # Products that cancel to noise become a product of rank 0, which is not stored.
    kept = low_rank.truncate(exact, rank or 0) if rank or not norm else exact
    stored = kept.to(dtype)
    # Against what is stored, so that the error includes the rounding to the file's dtype.
    error = low_rank.norm(low_rank.difference(exact, stored.to(torch.float64)))
    return AdapterPart(module, stored, TensorFit(name, stored.rank, norm, error))


def _adapters(
    recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]
) -> dict[str, LoraVector]:
    """Returns the recipe's adapters.

    Raises:
        RecipeError: the recipe has slices, or a vector is neither an adapter nor the base itself.
    """
    if recipe.slices:
        raise RecipeError(
            "slices make a model of other layers than the base's, and an adapter cannot add or "
            "move layers. Leave out --as-adapter to get a full model."
        )
    adapters = {}
    for source in recipe.models:
        vector = vectors[source.name]
        if isinstance(vector, LoraVector):
            adapters[source.name] = vector
        # An average may have the base as one more model, whose delta is 0.
        elif not (vector.path and vector.path.resolve() == base.path.resolve()):
            raise RecipeError(
                f"{source.name} ({source.location}) is not an adapter, and only a composition of "
                "adapters is an adapter. Use --as-adapter only if all models of the recipe are "
                "adapters; leave it out to get a full model, or make an adapter of the checkpoint "
                "first: dem extract BASE CHECKPOINT OUT --rank N."
            )
    return adapters


def _in_memory(base: Checkpoint, names: Sequence[str]) -> LoadedModules:
    """Returns the modules in the loaded model of tensors that adapters change.

    An adapter may have been trained with another version of transformers, in which its modules had
    other paths. There are none if transformers cannot make the model, as one with code of its own:
    then the adapters know their paths best.
    """
    try:
        return loaded_modules(base, names) if base.config.get("model_type") else NOT_LOADED
    except LoadError:
        return NOT_LOADED


def _module(terms: Sequence[Term]) -> Module:
    """Returns PEFT's name of a tensor's module, as the adapters that change the tensor give it.

    Adapters may have been saved with paths of different lengths. The longest one is taken.
    """
    modules = set()
    for term in terms:
        target = term.adapter.targets[term.tensor]
        path, _, end = target.a.removeprefix(PREFIX).rpartition(".lora_")
        modules.add(Module(path, target.transposed, end.startswith("embedding")))
    if len({module[1:] for module in modules}) > 1:
        raise MismatchError(
            f"{listed([term.adapter.name for term in terms])} disagree about the orientation of "
            f"{terms[0].tensor!r} (fan_in_fan_out), so one of them would be added transposed. "
            "Save the one that is wrong again with peft."
        )
    return max(modules, key=lambda module: len(module.path))
