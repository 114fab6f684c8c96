"""MergeMeter: tells how far an export is while it computes and writes its tensors.

What is written says too little: a method that looks at a whole embedding first writes nothing for
minutes. So what is read counts, tensor by tensor, until the tensor is written.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from merging.engine.task import Task
from merging.errors import ExportError
from merging.inputs.checkpoint import Checkpoint, counting_reads
from merging.inputs.manifest import Progress
from merging.methods._spectrum import averaged
from merging.recipe import Recipe

DECOMPOSED = 32
"""Decomposing a matrix costs a pass for each so many rows or columns of its smaller side.

A rough number, so that the embedding, which is averaged in seconds, is no third of the progress.
"""


class MergeMeter:
    """How far the tensors of an export are, in bytes of their inputs.

    The total is fixed before the first read; a method that reads its inputs several times counts
    them as often. How often is an estimate, so the reads of one tensor never count for more than
    the tensor, and a tensor that is written counts in full. The next tensors are measured by what
    the last ones really read. An adapter counts like the weights that it changes.

    Args:
        tasks: all tensors of the export.
        base: Θ, whose dtypes are those of most inputs.
        progress: told from the thread that calls `took` and `tell`.

    Attributes:
        total: the bytes of inputs, in all passes.
    """

    def __init__(self, tasks: Sequence[Task], base: Checkpoint, progress: Progress) -> None:
        self._work = {task.name: _work(task, base) for task in tasks}
        self.total = sum(self._work.values())
        self._progress, self._lock = progress, Lock()
        self._read: dict[str, int] = {}
        """Bytes that were read of each tensor that is not yet written."""
        self._written: dict[str, float] = {}
        """Part of each tensor that is written, if not all of it is."""
        self._complete = self._told = 0
        # Bytes that were read of tensors that are complete, and their estimates.
        self._really = self._estimated = 0
        self._stopped = False

    @contextmanager
    def reading(self, task: Task) -> Iterator[None]:
        """Counts what this thread reads inside the block for this tensor.

        Raises:
            ExportError: at the next read, once `progress` has cancelled the export.
        """

        def count(nbytes: int) -> None:
            # Whoever cancels a long pass over a large tensor does not wait for its end.
            if self._stopped:
                raise ExportError("the export was stopped.")
            with self._lock:
                self._read[task.name] = self._read.get(task.name, 0) + nbytes

        with counting_reads(count):
            yield

    def took(self, task: Task, elements: int) -> None:
        """Tells that the next elements of a tensor are written, and reports."""
        with self._lock:
            part = self._written.pop(task.name, 0.0) + elements / task.numel
            # Half an element: the parts of a tensor add up with rounding.
            if part < 1 - 0.5 / task.numel:
                self._written[task.name] = part
            else:
                self._end(task)
        self.tell()

    def tell(self) -> None:
        """Reports how far the export is; for the thread that waits, again and again.

        Raises:
            Exception: whatever `progress` raises, to cancel.
        """
        with self._lock:
            done = self._complete + sum(map(self._under_way, {*self._read, *self._written}))
            # A tensor's estimate may change while it is under way.
            self._told = max(self._told, done)
        try:
            self._progress("write", self._told, self.total)
        except BaseException:
            self._stopped = True
            raise

    def _end(self, task: Task) -> None:
        work, read = self._work[task.name], self._read.pop(task.name, 0)
        self._complete += work
        # Copies are read once, and what is done to whole tensors is mostly no reading.
        if task.vectors and not task.whole:
            self._really, self._estimated = self._really + read, self._estimated + work

    def _under_way(self, name: str) -> int:
        """Returns the bytes that count for a tensor that is not complete: less than all of it."""
        work, read = self._work[name], self._read.get(name, 0)
        share = self._written.get(name, 0.0)
        if expected := work * (self._really / self._estimated if self._estimated else 1.0):
            share = max(share, read / expected)
        return min(int(work * share), work - 1)


@contextmanager
def show_reads(progress: Progress, recipe: Recipe, base: Checkpoint) -> Iterator[None]:
    """Reports what is read inside the block as the step "measure".

    It is for the lengths of whole vectors: of each, base and fine-tuned weights are read once.
    """
    done, total = 0, 2 * base.nbytes * len(recipe.models)

    def count(nbytes: int) -> None:
        nonlocal done
        # Weights of another dtype are more bytes.
        done = min(done + nbytes, total)
        progress("measure", done, total)

    with counting_reads(count):
        yield
    # Adapters and lengths that are known are fewer bytes.
    if done:
        progress("measure", total, total)


def _work(task: Task, base: Checkpoint) -> int:
    """Returns about how many bytes are read for a tensor."""
    vectors = len(task.vectors)
    inputs = task.numel * base.info(task.name).dtype.itemsize * (1 + vectors)
    method, passes = task.method, 1.0
    if task.whole:
        # All is read before anything is computed: let reading be half of it.
        passes = 2.0
        if method.in_blocks is averaged:
            passes += min(task.shape) / DECOMPOSED
    elif vectors and method.ranks is not None:
        # Three passes look for the ranks, each over one vector and the base.
        passes += 6 * vectors / (1 + vectors)
    elif vectors and method.scope == "tensor" and method.in_blocks is not averaged:
        # One looks at the whole tensor, one computes it.
        passes = 2.0
    return int(inputs * passes)
