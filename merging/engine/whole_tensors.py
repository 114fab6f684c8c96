"""Reads whole tensors, chunk by chunk, for what a method must know before it computes a block.

Threads that need the same numbers share the work: each takes the next chunk until none is left. The
numbers are joined in the order of the chunks, so they do not depend on the number of threads. They
are kept with the first vector, because most depend on no ω.
"""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from threading import Event, Lock
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from merging.dtypes import working_dtype
from merging.engine import kernel
from merging.engine.kernel import Values, VectorSpan
from merging.engine.pieces import (
    Piece,
    Reader,
    fill_deltas,
    read_base,
    read_deltas,
    read_weights,
)
from merging.engine.task import Task
from merging.engine.task_vectors import RenamedTensor
from merging.engine.workspace import Workspace
from merging.inputs.checkpoint import Weights, dtype_of, read_into
from merging.inputs.vector import Vector
from merging.methods._survey import Chunk, chunk_size, products
from merging.methods._values import Site
from merging.threads import Spare

Joined = TypeVar("Joined")
_CACHE = "_surveys"
_LOCK = Lock()
# Taken anew for each tensor, such memory leaves holes that nobody gives back.
_WORKSPACES = Spare(Workspace)


class WholeTensor(NamedTuple):
    """One tensor, and where its values are read."""

    task: Task
    base: Weights
    vectors: list[Vector]
    """Those of the task, in its order."""

    def rows(
        self, piece: Piece, reader: Reader, *, base: bool = False
    ) -> tuple[Values | None, list[VectorSpan]]:
        """Reads a piece as the compiled loop takes it.

        Args:
            piece: the piece.
            reader: how to read.
            base: put the base's own values before those of the vectors.

        Returns:
            the base's values that the compiled loop subtracts, None if it subtracts nothing; and a
            span for each row.
        """
        deltas, count = self.task.space == "deltas", len(self.vectors)
        origin = read_base(piece, self.base, count, reader) if deltas or base else None
        read = (
            read_deltas(piece, self.base, self.vectors, reader)
            if deltas
            else read_weights(piece, self.vectors, reader)
        )
        if base:
            assert origin is not None
            read = [VectorSpan(origin, difference=True), *read]
        return origin if deltas else None, read

    def fill(self, start: int, stack: Tensor, scratch: Tensor) -> None:
        """Reads a piece as a method's `combine` takes it.

        Args:
            start: the first element.
            stack: (1 + vectors, n), in the working dtype: the base's values come first, then the
                deltas or the weights of each vector.
            scratch: uint8; see merging.inputs.checkpoint.read_into.
        """
        task, base, vectors = self
        read_into(base, task.name, start, stack[0], scratch)
        if task.space == "deltas":
            fill_deltas(task.name, start, stack, base, vectors, scratch)
        else:
            for row, vector in zip(stack[1:], vectors, strict=True):
                vector.read_weights(task.name, start, row, scratch)

    def factors(self) -> list[float]:
        """Returns the factors of a method that declares them; see merging.methods._contract."""
        task = self.task
        dtype = working_dtype(dtype_of(self.base, task.name))
        # What the factors depend on is read by the survey.
        site = Site(task.name, torch.empty(0, dtype=dtype), task.depth, survey=self.survey)
        stack, omegas = torch.empty(len(self.vectors), 0, dtype=dtype), torch.tensor(task.omegas)
        assert task.method.factors is not None
        found = task.method.factors(stack, omegas, site, **dict(task.arguments))
        return found.tolist()

    def survey(
        self,
        key: tuple[object, ...],
        of: Callable[[Chunk], Tensor],
        join: Callable[[list[Tensor]], Joined],
        unit: int = 1,
    ) -> Joined:
        """Computes numbers for each chunk of the tensor and joins them, or returns them if known.

        See merging.methods._survey.surveyed for the arguments.
        """
        keepers = [each.inner if isinstance(each, RenamedTensor) else each for each in self.vectors]
        key, size = (self.task.space, *key), chunk_size(unit)
        with _LOCK:
            surveys: dict[str, list[_Survey]] = vars(keepers[0]).setdefault(_CACHE, {})
            known = surveys.setdefault(self.task.name, [])
            # Only the last of each kind is kept: a density that is dragged has new ones with each
            # move. So are those of the last set of vectors.
            known[:] = [
                each
                for each in known
                if each.is_of(self.base, keepers) and (each.key == key or each.key[:2] != key[:2])
            ]
            survey = next((each for each in known if each.key == key), None)
            if survey is None:
                survey = _Survey(key, self.base, keepers, -(-self.task.numel // size), join)
                known.append(survey)
        try:
            result: Joined = survey.result(
                lambda number, space: of(_Stored(self, number * size, size, space))
            )
        except BaseException:
            with _LOCK:
                # A thread that waited may have found the list without it.
                known[:] = [each for each in known if each is not survey]
            raise
        return result


class _Survey:
    """The numbers of all chunks of one tensor, computed by the threads that ask for them.

    Args:
        key: what the numbers are.
        base: Θ.
        vectors: those that they are of.
        count: the number of chunks.
        join: makes the result.
    """

    def __init__(
        self,
        key: tuple[object, ...],
        base: Weights,
        vectors: list[Vector],
        count: int,
        join: Callable[[list[Tensor]], Any],
    ) -> None:
        self.key, self._base, self._join = key, base, join
        # Kept with one of the vectors, which must not keep the others alive.
        self._vectors = [weakref.ref(vector) for vector in vectors]
        self._lock, self._over = Lock(), Event()
        self._next, self._left, self._count = 0, count, count
        self._found: list[Any] = [None] * count
        self._result: Any = None
        self._error: BaseException | None = None

    def is_of(self, base: Weights, vectors: list[Vector]) -> bool:
        """Reports whether the numbers are those of a base and vectors."""
        own = [reference() for reference in self._vectors]
        return (
            self._base is base
            and len(own) == len(vectors)
            and all(one is other for one, other in zip(own, vectors, strict=True))
        )

    def result(self, compute: Callable[[int, Workspace], Tensor]) -> Any:
        """Computes chunks until none is left, waits for those of other threads, and joins them.

        Args:
            compute: returns the numbers of one chunk, by its place; reads into a workspace.
        """
        if not self._over.is_set():
            try:
                with _WORKSPACES.borrowed() as workspace:
                    while (number := self._take()) is not None:
                        self._found[number] = compute(number, workspace)
                        self._give_back()
            except BaseException as error:
                self._error = error
                self._over.set()
                raise
            self._over.wait()
        if self._error is not None:
            raise self._error
        return self._result

    def _take(self) -> int | None:
        """Returns the place of a chunk that nobody has taken; None if there is none."""
        with self._lock:
            if self._next == self._count or self._error is not None:
                return None
            self._next += 1
            return self._next - 1

    def _give_back(self) -> None:
        """Counts a chunk that is computed; the last one makes the result."""
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._result, self._found = self._join(self._found), []
            self._over.set()


class _Stored(Chunk):
    """A chunk that is read when it is asked for."""

    def __init__(self, source: WholeTensor, start: int, most: int, workspace: Workspace) -> None:
        self._source, self._workspace = source, workspace
        self.start = start
        self._size = min(most, source.task.numel - start)

    @cached_property
    def _rows(self) -> Tensor:
        """The base's values and those of each vector, (1 + vectors, n), in the working dtype."""
        task, base, vectors = self._source
        dtype = working_dtype(dtype_of(base, task.name))
        rows = self._workspace.rows(1 + len(vectors), self._size, dtype)
        self._source.fill(self.start, rows, self._workspace.scratch)
        return rows

    @property
    def values(self) -> Tensor:
        return self._rows[1:]

    def products(self, *, base: bool) -> Tensor:
        task, weights, vectors = self._source
        count = len(vectors) + base
        if not kernel.reads(dtype_of(weights, task.name)) or count > kernel.MOST:
            return products(self._rows if base else self.values)
        piece = Piece(task.name, self.start, self.start + self._size)
        with ExitStack() as files:
            theta, rows = self._source.rows(piece, self._workspace.reader(files), base=base)
            gram = kernel.exact_products(theta, rows, self._workspace.slices(count))
        # Without exponents, as `products` has none for float32.
        return torch.cat([torch.from_numpy(gram), torch.zeros(count, 1, dtype=torch.float64)], 1)
