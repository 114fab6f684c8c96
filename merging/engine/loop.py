"""Computes every tensor of a merged model from a recipe, a base and vectors, in bounded memory.

The live model, the export and the statistics all use this loop, so they cannot disagree. Its
arithmetic keeps three rules:

* values are computed in float32 (float64 if the base is float64) and rounded once, at the end, to
  the output dtype;
* operations run in a fixed order and each is rounded separately: the bits do not depend on block
  size, threads or history;
* every tensor of the base comes out. A tensor that nothing moves equals the base's bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from merging.dtypes import working_dtype
from merging.engine import kernel, pieces
from merging.engine.finite import explain_not_finite
from merging.engine.rank_windows import windows_at
from merging.engine.stochastic_rounding import round_piece
from merging.engine.task import Task, seed_of
from merging.engine.task_vectors import statistics_at, summands_of
from merging.engine.tasks import tasks
from merging.engine.whole_tensors import WholeTensor
from merging.engine.workspace import PIECE, Workspace
from merging.errors import MergingError
from merging.inputs.checkpoint import Weights, dtype_of, read_block, read_into
from merging.inputs.vector import Vector
from merging.methods._chunks import row_length
from merging.methods._edits import Window
from merging.methods._values import Site
from merging.recipe import Recipe
from merging.threads import Spare

BLOCK = 2**18
"""Elements that element methods compute at once: 1 MB of float32, which fits a core's cache."""


def merge(
    recipe: Recipe, base: Weights, vectors: Mapping[str, Vector]
) -> Iterator[tuple[str, Tensor]]:
    """Yields every tensor of the merged model, with the base's names and in the base's order.

    Args:
        recipe: the merge.
        base: Θ.
        vectors: the vectors that the recipe names, by those names.

    The tensors have the base's shape and the output dtype.

    Raises:
        RecipeError: if the recipe cannot be carried out on these weights.
        MismatchError: if a vector belongs to another base.
        MergingError: if merged values are not finite.
    """
    for task in tasks(recipe, base, vectors):
        yield task.name, tensor(task, base, vectors)


def tensor(task: Task, base: Weights, vectors: Mapping[str, Vector]) -> Tensor:
    """Computes one tensor of the merged model, in its shape and output dtype.

    Raises:
        MergingError: if merged values are not finite.
    """
    out = torch.empty(task.numel, dtype=task.out_dtype)
    workspace = Workspace(PIECE)
    for start, stop in spans(task, PIECE):
        compute(task, base, vectors, start, out[start:stop], workspace)
    if why := explain_not_finite(task, base, out):
        raise MergingError(why)
    return out.view(task.shape)


def spans(task: Task, most: int) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of each piece of a tensor, in elements.

    A piece has at most `most` elements, unless the method needs the whole tensor.
    """
    # An empty tensor has no pieces, but range needs a step above 0.
    size = max(task.numel, 1) if task.whole else most
    for start in range(0, task.numel, size):
        yield start, min(start + size, task.numel)


class Cpu:
    """The CPU as the device that computes pieces.

    The other device is merging.engine.accelerator.Accelerator, which has the same methods.
    """

    def __init__(self) -> None:
        self._workspaces = Spare(lambda: Workspace(PIECE))

    @property
    def most(self) -> int:
        """Elements of a piece, unless the method needs the whole tensor."""
        return PIECE

    def memory(self, nbytes: int) -> Tensor:
        """Allocates uint8 memory for results."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def reaches(self, out: Tensor) -> bool:
        """Reports whether `compute` can write to this tensor."""
        return out.device.type == "cpu"

    def compute(
        self, task: Task, base: Weights, vectors: Mapping[str, Vector], start: int, out: Tensor
    ) -> None:
        """Computes one piece, in any thread; arguments as for merging.engine.loop.compute."""
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
    """Computes one piece of a tensor of the merged model and rounds it into `out`.

    Args:
        task, base, vectors: the tensor, Θ, and the vectors that the task names.
        start: the piece's first element in the flattened tensor.
        out: 1-D, in the task's output dtype, as large as one of its `spans`.
        workspace: memory that no other thread uses now.
    """
    task, own = summands_of(task.computed, vectors)
    if not task.vectors:
        # Never through float32, which cannot hold large integers: buffers come this way too.
        read_into(base, task.name, start, out, workspace.scratch)
        return
    job = _Job(task, base, own, workspace)
    terms = _terms(job)
    # The compiled loop cuts stored weights into slices itself; all else is cut into blocks here.
    as_stored = terms is not None and all(vector.AS_STORED for vector in job.vectors)
    at_once = as_stored or task.whole
    unit = task.unit
    block = out.numel() if at_once else max(1, BLOCK // unit) * unit
    stop = start + out.numel()
    # Blocks begin at their multiples, so that those of whole rows seldom share one.
    for low in range(start if at_once else start // block * block, stop, block):
        first = max(low, start)
        part = out[first - start : min(low + block, stop) - start]
        if terms is not None:
            _by_kernel(job, first, part, terms)
        else:
            values = _combined(job, first, first + part.numel())
            # Unless rounding is stochastic, copy_ rounds to nearest itself and saves a copy.
            part.copy_(round_piece(task, first, values) if task.stochastic else values)


class _Job(NamedTuple):
    """The inputs from which the pieces of one tensor are computed."""

    task: Task
    base: Weights
    vectors: list[Vector]
    """The vectors that take part, in the task's order."""
    workspace: Workspace

    @property
    def whole(self) -> WholeTensor:
        """The whole tensor, of which pieces are computed."""
        return WholeTensor(self.task, self.base, self.vectors)


def _terms(job: _Job) -> kernel.Terms | list[float] | None:
    """Returns the task as a sum for the compiled loop, with the bits of `combine`.

    A list holds factors for kernel.exact_sum. None if it is no sum that the compiled loop takes.
    """
    task, scale = job.task, job.task.method.scale
    if task.stochastic or not kernel.reads(task.out_dtype, dtype_of(job.base, task.name)):
        return None
    if scale is None:
        return job.whole.factors() if task.method.factors and not task.whole else None
    # In float32, like `combine`: the compiled loop must divide by the same bits.
    divisor, factor = scale(torch.tensor(task.omegas), **dict(task.arguments))
    return kernel.Terms(task.omegas, float(divisor), float(factor))


def _by_kernel(job: _Job, start: int, out: Tensor, terms: kernel.Terms | list[float]) -> None:
    """Computes a piece in one pass by the compiled loop."""
    piece = pieces.Piece(job.task.name, start, start + out.numel())
    # The compiled loop reads from descriptors, so the files stay open until it is done.
    with ExitStack() as files:
        reader = job.workspace.reader(files)
        theta, rows = job.whole.rows(piece, reader, base=job.task.method.base_role == "operand")
        scratch = job.workspace.slices(len(rows))
        if isinstance(terms, kernel.Terms):
            kernel.weighted_sum(theta, rows, terms, out, scratch)
        else:
            kernel.exact_sum(theta, rows, terms, out, scratch)


def unrounded_blocks(
    task: Task, base: Weights, vectors: Mapping[str, Vector]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields the pieces of a tensor before they are rounded, at most BLOCK elements at a time.

    Yields:
        the first element; the base's values (n,) in their stored dtype; the merged values (n,) in
        the working dtype, or the base's own values if the tensor is copied. The next piece
        overwrites the merged values.
    """
    (task, own), workspace = summands_of(task.computed, vectors), Workspace(PIECE)
    job = _Job(task, base, own, workspace)
    for start, stop in spans(task, BLOCK):
        stored = read_block(base, task.name, start, stop)
        yield start, stored, _combined(job, start, stop) if task.vectors else stored


def _combined(job: _Job, start: int, stop: int) -> Tensor:
    """Computes elements by the method's `combine`, in the working dtype and not yet rounded.

    The result lies in the workspace.
    """
    task, unit, scratch = job.task, job.task.unit, job.workspace.scratch
    # If the method takes whole rows, those in which the elements begin and end are computed whole.
    low = start // unit * unit
    high = min(task.numel, -(-stop // unit) * unit)
    dtype = working_dtype(dtype_of(job.base, task.name))
    stack = job.workspace.rows(len(task.vectors) + 1, high - low, dtype)
    windows = windows_at(task, job.base, job.vectors, low, scratch)
    job.whole.fill(low, stack, scratch)
    survey = None if task.whole else job.whole.survey
    return combine_piece(task, low, stack, windows, survey)[start - low : stop - low]


def combine_piece(
    task: Task,
    start: int,
    stack: Tensor,
    windows: tuple[Window, ...] = (),
    survey: Callable[..., object] | None = None,
) -> Tensor:
    """Applies the method to one piece, on the device of the stack.

    Args:
        task: the tensor.
        start: the piece's first element in the flattened tensor.
        stack: (1 + vectors, n), overwritten: the base's values, then the deltas or the weights of
            each vector, as the task's space says.
        windows: what a method that trims keeps of each vector; see Site.
        survey: reads the whole tensor; see Site.

    Returns:
        (n,), in the dtype of the stack: not yet rounded.
    """
    theta, others = stack[0], stack[1:]
    shape = task.shape or (1,) if task.whole else (-1,)
    seeds = tuple(seed_of(task.seed, task.name, name) for name in task.vectors)
    span = (start, start + theta.numel())
    statistics = statistics_at(task, span, shape, theta.dtype)
    site = Site(
        task.name,
        theta.view(shape),
        depth=task.depth,
        seeds=seeds,
        statistics=statistics,
        windows=windows,
        survey=survey,
        start=start,
        columns=0 if task.whole else row_length(task.shape),
    )
    # ω stay on the CPU, also for an accelerator: methods use them as single numbers.
    omegas = torch.tensor(task.omegas, dtype=theta.dtype)
    result: Tensor = task.method.combine(
        others.view(len(others), *shape), omegas, site, **dict(task.arguments)
    ).reshape(-1)
    # The base is added last, as in the compiled loop, so that both round in the same order.
    return result.add_(theta) if task.space == "deltas" else result
