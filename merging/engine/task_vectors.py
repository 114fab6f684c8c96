"""Gives a task its vectors and statistics, under whichever of the tensor's names they have it.

A base may store one tensor under several names. An adapter changes it under the name of the module
that it adapts, and a saved vector under the name that its own base has; the task has the first.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from merging.engine.low_rank import factors_of
from merging.engine.task import Task
from merging.errors import MismatchError
from merging.inputs.lora_vector import LoraVector
from merging.inputs.vector import DistributionVector, Vector
from merging.inputs.vector_arithmetic import AdapterSum, WeightedAdapter
from merging.methods._contract import load
from merging.methods._values import Statistic
from merging.tensor_names import place
from plumbing.suggest import listed

_CACHE = "_moves_as_one"
_SUMS = "_sums"
SUM = "task_arithmetic"
"""The method that is Σ ωᵢ xᵢ and nothing more, with its defaults."""


class RenamedTensor(Vector):
    """A vector that also has one of its tensors under another name.

    Args:
        inner: the vector.
        name: the other name.
        own: the name that `inner` has for the same tensor of the base.
    """

    def __init__(self, inner: Vector, name: str, own: str) -> None:
        self.name, self.base, self.path = inner.name, inner.base, inner.path
        self.inner, self._names = inner, {name: own}

    def own_name(self, name: str) -> str:
        """Returns the inner vector's name of a tensor."""
        return self._names.get(name, name)

    def __getitem__(self, name: str) -> Tensor:
        return self.inner[self.own_name(name)]

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        yield from self.inner

    def __contains__(self, name: object) -> bool:
        return name in self._names or name in self.inner

    def __len__(self) -> int:
        return len(self._names) + len(self.inner)

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of a delta; see Vector.block."""
        return self.inner.block(self.own_name(name), start, stop)

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of Θ_i; see Vector.weights_block."""
        return self.inner.weights_block(self.own_name(name), start, stop)


def under_first_name(vector: Vector, names: Sequence[str]) -> Vector:
    """Returns a vector that has a tensor under the first of its names, if it has it at all.

    Args:
        vector: the vector.
        names: all names of the tensor in the base; empty if there is one only.
    """
    own = next((name for name in names if name in vector), None)
    return vector if own is None or own == names[0] else RenamedTensor(vector, names[0], own)


def vectors_of(task: Task, vectors: Mapping[str, Vector]) -> list[Vector]:
    """Returns the vectors that take part in a task, in its order.

    Args:
        task: one whose name is the first of its names.
        vectors: by name.
    """
    return [under_first_name(vectors[name], task.names) for name in task.vectors]


def summands_of(task: Task, vectors: Mapping[str, Vector]) -> tuple[Task, list[Vector]]:
    """Returns what a task combines: itself and `vectors_of`, unless it sums several adapters.

    For a method that is a sum, several adapters that change the tensor become one vector, the
    product of their stacked factors. Each vector's factor (ω, times what the method makes of it) is
    computed in float64. The other vectors keep their order, and the adapters come last. A vector
    that does not change the tensor is left out of a sum of deltas: its factor is known already.

    Args:
        task: one whose name is the first of its names.
        vectors: by name.

    Returns:
        the task, or a sum of the same values, and its vectors.
    """
    given = vectors_of(task, vectors)
    adapters = [_adapter_at(vector, task.name) for vector in given]
    # One adapter keeps the bits of PEFT: (B·A)·s, times ω.
    if not task.method.linear or sum(map(bool, adapters)) < 2:
        return task, given
    first = next(each[0] for each in adapters if each)
    # A tensor is computed piece by piece, and threads are at no more than two large tensors.
    kept: tuple[_Sum, ...] = vars(first).get(_SUMS, ())
    for each in kept:
        # By identity: vectors are mappings, and == would read and compare all their tensors.
        if each.task == task and all(
            map(operator.is_, each.sources, (vectors[name] for name in task.vectors))
        ):
            return each.result
    factors = factors_of(task)
    terms = [
        WeightedAdapter(factor, *each)
        for factor, each in zip(factors, adapters, strict=True)
        if each
    ]
    total = AdapterSum(task.name, terms)
    rest = [
        number
        for number, each in enumerate(adapters)
        if each is None and (task.space == "weights" or task.name in given[number])
    ]
    summed = task._replace(
        method=load(SUM),
        vectors=(*(task.vectors[number] for number in rest), total.name),
        omegas=(*(factors[number] for number in rest), 1.0),
        arguments=tuple(sorted(load(SUM).arguments({}).items())),
    )
    result = summed, [*(given[number] for number in rest), total]
    vars(first)[_SUMS] = (_Sum(task, [vectors[name] for name in task.vectors], result), *kept[:1])
    return result


class _Sum(NamedTuple):
    """A sum with stacked adapters, and that of which it was made."""

    task: Task
    sources: list[Vector]
    result: tuple[Task, list[Vector]]


def _adapter_at(vector: Vector, name: str) -> tuple[LoraVector, str] | None:
    """Returns an adapter and its own name of a tensor that it changes; None for other vectors."""
    if isinstance(vector, RenamedTensor):
        return _adapter_at(vector.inner, vector.own_name(name))
    return (vector, name) if isinstance(vector, LoraVector) and name in vector else None


def statistics_at(
    task: Task, span: tuple[int, int], shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Statistic | None, ...]:
    """Reads the statistics of one block of a task's tensor, for each vector; see Statistics.at."""
    return tuple(
        file.at(
            next((name for name in task.names if name in file.stored), task.name),
            span,
            shape,
            dtype,
        )
        for file in task.statistics
    )


def check_one_move(vector: Vector, names: Sequence[str]) -> None:
    """Checks that a vector moves a tensor in one way, under whichever of its names.

    A checkpoint with different values under them was trained with the tensor untied, which
    merging.preflight.storage tells.

    Args:
        vector: the vector.
        names: all names of the tensor in the base.

    Raises:
        MismatchError: if the deltas under two names differ, or an adapter moves the head alone.
    """
    own = [name for name in names if name in vector]
    if not own or isinstance(vector, DistributionVector):
        return
    # Kept with the vector, because tasks are resolved anew for each move of a slider.
    known: dict[tuple[str, ...], bool] = vars(vector).setdefault(_CACHE, {})
    key = tuple(own)
    if key not in known:
        first = vector[own[0]]
        known[key] = all(torch.equal(first, vector[name]) for name in own[1:])
    table = any(place(name).part == "embeddings" for name in names)
    targets = vector.targets if isinstance(vector, LoraVector) else {}
    head = table and targets and not any(targets[name].on_embedding for name in own)
    if known[key] and not head:
        return
    how = f"{listed(own)} alone" if known[key] else f"{listed(own)} differently"
    raise MismatchError(
        f"{vector.name}{f' ({vector.path})' if vector.path else ''} moves {how}, and the base "
        f"stores one tensor under {listed(list(names))}. Give a base that stores them apart (load "
        "it with tie_word_embeddings=False and save it), or train with ensure_weight_tying=True in "
        "PEFT's LoraConfig."
    )
