"""The one loop: a recipe, a base and its vectors -> tensors of the merged model, in bounded memory.

The live model, the export and the statistics all consume it, so they cannot disagree. The rules of its arithmetic:

* computed in float32 (float64 where the base is), rounded once, at the end, to the output dtype;
* in a fixed order, each operation rounded by itself: the bits do not depend on block size, threads or history;
* every tensor of the base comes out. One that nothing moves is the base's, bit for bit.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from merging.dtypes import working_dtype
from merging.engine import kernel, pieces
from merging.engine.stochastic_rounding import stochastic
from merging.engine.tasks import Task, tasks
from merging.engine.threads import Spare
from merging.inputs.checkpoint import Weights, dtype_of, read_block, read_into
from merging.inputs.vector import Vector
from merging.methods._contract import Site
from merging.recipe import Recipe

WIDE = (torch.float32, torch.float64)
BLOCK = 2**18
"""Elements computed at once by element methods: a megabyte of float32, which stays in the cache of a core."""
PIECE = 2**20
"""Elements that a thread takes at once: computed in blocks, or by the compiled loop, which takes slices of its own."""


def merge(
    recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the merged model, under the base's names and in the base's order.

    Args:
        recipe: what to do.
        base: Θ.
        vectors: the vectors that the recipe names, by those names.

    Raises:
        RecipeError: when the recipe cannot be carried out on these weights.
    """
    for task in tasks(recipe, base, vectors):
        yield task.name, tensor(task, base, vectors)


def tensor(task: Task, base: Weights, vectors: Mapping[str, Vector]) -> Tensor:
    """One tensor of the result, in its shape and output dtype."""
    out = torch.empty(task.numel, dtype=task.out_dtype)
    workspace = Workspace()
    for start, stop in spans(task, PIECE):
        compute(task, base, vectors, start, out[start:stop], workspace)
    return out.view(task.shape)


def spans(task: Task, most: int) -> Iterator[tuple[int, int]]:
    """The first element of each piece of a tensor, and one past its last.

    No piece is larger than `most`, but for methods that need the whole tensor.
    """
    size = max(task.numel, 1) if _needs_whole(task) else most
    for start in range(0, task.numel, size):
        yield start, min(start + size, task.numel)


class Workspace:
    """Memory that one thread uses again for piece after piece: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._most = PIECE
        self.scratch = torch.empty(8 * PIECE, dtype=torch.uint8)
        self._kept = torch.empty(0, dtype=torch.uint8)
        self._inputs: list[Tensor] = []

    def rows(self, count: int, size: int, dtype: torch.dtype) -> Tensor:
        """(count, size), not initialised; the next call may give the same memory again."""
        nbytes = count * size * dtype.itemsize
        if size > self._most:
            return torch.empty(count, size, dtype=dtype)
        if self._kept.numel() < nbytes:
            self._kept = torch.empty(nbytes, dtype=torch.uint8)
        return self._kept[:nbytes].view(dtype).view(count, size)

    def slices(self, rows: int) -> Tensor:
        """What the compiled loop reads a base and so many rows into; see rows()."""
        return self.rows(rows + 1, kernel.SLICE, torch.float32)

    def reader(self, files: ExitStack) -> pieces.Reader:
        """Reads pieces into this memory, and leaves in `files` what the compiled loop reads by itself."""
        return pieces.Reader(self.scratch, self._input, files)

    def _input(self, number: int) -> Tensor:
        # each input has memory of its own, so that the pieces of several inputs lie side by side
        while len(self._inputs) <= number:
            self._inputs.append(torch.empty(4 * self._most, dtype=torch.uint8))
        return self._inputs[number]


class Processor:
    """This machine's processor, as the place where pieces are computed; merging.engine.accelerator.Accelerator is the other kind."""

    def __init__(self) -> None:
        self._workspaces = Spare(Workspace)

    @property
    def most(self) -> int:
        """Elements of a piece, but for methods that need the whole tensor."""
        return PIECE

    def memory(self, nbytes: int) -> Tensor:
        """Bytes for results."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def reaches(self, out: Tensor) -> bool:
        """Whether `compute` can write there."""
        return out.device.type == "cpu"

    def compute(
        self, task: Task, base: Weights, vectors: Mapping[str, Vector], start: int, out: Tensor
    ) -> None:
        """See compute; called from any thread."""
        with self._workspaces.borrowed() as workspace:
            compute(task, base, vectors, start, out, workspace)


def compute(
    task: Task,
    base: Weights,
    vectors: Mapping[str, Vector],
    start: int,
    out: Tensor,
    workspace: Workspace,
) -> None:
    """One piece of a tensor of the result, rounded into `out`.

    Args:
        task: the tensor.
        base: Θ.
        vectors: the vectors that it names.
        start: the first element.
        out: 1-D, in the task's output dtype, as large as one of its spans.
        workspace: of this thread.
    """
    if not task.vectors:
        read_into(base, task.name, start, out, workspace.scratch)
        return
    job = _Job(task, base, [vectors[name] for name in task.vectors], workspace)
    terms = _terms(task, base)
    as_stored = terms is not None and all(vector.AS_STORED for vector in job.vectors)
    step = out.numel() if as_stored or _needs_whole(task) else BLOCK
    for at in range(0, out.numel(), step):
        part = out[at : at + step]
        if terms is not None:
            _by_kernel(job, start + at, part, terms)
        else:
            _by_method(job, start + at, part)


class _Job(NamedTuple):
    """What the pieces of one tensor are computed from."""

    task: Task
    base: Weights
    vectors: list[Vector]
    """Those that take part, in the task's order."""
    workspace: Workspace


def _needs_whole(task: Task) -> bool:
    return bool(task.vectors) and task.method.scope == "tensor"


def _terms(task: Task, base: Weights) -> kernel.Terms | None:
    """The weighted sum that the task is, if the compiled loop gives the very bits of the method's `combine`; else None."""
    scale = task.method.scale
    if (
        scale is None
        or task.stochastic
        or not kernel.reads(task.out_dtype, dtype_of(base, task.name))
    ):
        return None
    divisor, factor = scale(torch.tensor(task.omegas), **dict(task.arguments))
    return kernel.Terms(task.omegas, float(divisor), float(factor))


def _by_kernel(job: _Job, start: int, out: Tensor, terms: kernel.Terms) -> None:
    """The piece in one pass, by the compiled loop."""
    piece, theta = pieces.Piece(job.task.name, start, start + out.numel()), None
    with ExitStack() as files:
        reader = job.workspace.reader(files)
        if job.task.space == "deltas":
            theta, spans_of = pieces.read_deltas(piece, job.base, job.vectors, reader)
        else:
            spans_of = pieces.read_weights(piece, job.vectors, reader)
        kernel.weighted_sum(theta, spans_of, terms, out, job.workspace.slices(len(spans_of)))


def _by_method(job: _Job, start: int, out: Tensor) -> None:
    """The piece by the method's `combine`, in the working dtype."""
    task, workspace = job.task, job.workspace
    working = working_dtype(dtype_of(job.base, task.name))
    stack = workspace.rows(len(task.vectors) + 1, out.numel(), working)
    read_into(job.base, task.name, start, stack[0], workspace.scratch)
    values = _combined(job, start, stack)
    out.copy_(rounded(task, start, values) if task.stochastic else values)


def rounded(task: Task, start: int, values: Tensor) -> Tensor:
    """The values of one piece as the file holds them."""
    if (
        task.stochastic
        and task.vectors
        and values.dtype in WIDE
        and task.out_dtype.itemsize < values.dtype.itemsize
    ):
        return stochastic(values, task.out_dtype, seed=task.seed, name=task.name, start=start)
    return values.to(task.out_dtype)


def unrounded_blocks(
    task: Task, base: Weights, vectors: Mapping[str, Vector]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The same pieces before they are rounded: the first element, the base's values, the result's values.

    The base's are as stored; the result's are in the working dtype, or the base's own where it is copied. They are good
    until the next piece is asked for.
    """
    workspace = Workspace()
    job = _Job(task, base, [vectors[name] for name in task.vectors], workspace)
    for start, stop in spans(task, BLOCK):
        stored = read_block(base, task.name, start, stop)
        if task.vectors:
            stack = workspace.rows(len(task.vectors) + 1, stop - start, working_dtype(stored.dtype))
            stack[0] = stored
            yield start, stored, _combined(job, start, stack)
        else:
            yield start, stored, stored


def _combined(job: _Job, start: int, stack: Tensor) -> Tensor:
    """One piece in the working dtype, before it is rounded. The first row holds the base, the others are written."""
    name, scratch = job.task.name, job.workspace.scratch
    if job.task.space == "deltas":
        read_deltas(name, start, stack, job.base, job.vectors, scratch)
    else:
        for row, vector in zip(stack[1:], job.vectors, strict=True):
            vector.read_weights(name, start, row, scratch)
    return combined(job.task, start, stack)


def combined(task: Task, start: int, stack: Tensor) -> Tensor:
    """What the method makes of one piece, on the device of the stack: in the working dtype, before it is rounded.

    Args:
        task: the tensor.
        start: the first element.
        stack: (1 + vectors, elements), used up: the base's values, then the deltas or the weights, as the task asks.
    """
    theta, others = stack[0], stack[1:]
    shape = (-1,) if task.method.scope == "element" else task.shape or (1,)
    seeds = tuple(seed_of(task.seed, task.name, name) for name in task.vectors)
    span = (start, start + theta.numel())
    known = tuple(one.at(task.name, span, shape, theta.dtype) for one in task.statistics)
    site = Site(task.name, theta.view(shape), task.depth, seeds, known)
    omegas = torch.tensor(task.omegas, dtype=theta.dtype)
    result: Tensor = task.method.combine(
        others.view(len(others), *shape), omegas, site, **dict(task.arguments)
    ).reshape(-1)
    return result.add_(theta) if task.space == "deltas" else result


def read_deltas(
    name: str, start: int, rows: Tensor, base: Weights, vectors: Sequence[Vector], scratch: Tensor
) -> None:
    """Fill all rows but the first, which holds the base's values, with the vectors' deltas at one piece of a tensor.

    A tensor that a vector leaves alone is 0 there.

    Args:
        name: of the tensor.
        start: the first element.
        rows: (1 + vectors, elements), in the working dtype.
        base: Θ.
        vectors: in the order of the rows.
        scratch: see merging.inputs.checkpoint.read_into.
    """
    for row, vector in zip(rows[1:], vectors, strict=True):
        if name in vector:
            vector.read_delta(name, start, row, scratch, rows[0] if vector.base is base else None)
        else:
            row.zero_()


def seed_of(seed: int, tensor: str, vector: str) -> int:
    """The seed of a random mask: other tensors, other sliders, their order and threads cannot change it.

    The first 63 bits of SHA-256 over the recipe's seed and the two names.
    """
    text = "\0".join((str(seed), tensor, vector))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
