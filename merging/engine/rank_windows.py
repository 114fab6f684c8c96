"""Finds the magnitudes of given ranks in a delta, block by block, so that nothing is held whole.

A method that trims keeps the entries from one rank to another. The magnitudes at these ranks take
two passes; see merging.methods._selection. A third counts the entries that are equal to an end,
because those are ranked by position.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.dtypes import working_dtype
from merging.engine.pieces import fill_deltas
from merging.engine.task import Task
from merging.engine.task_vectors import RenamedTensor
from merging.inputs.checkpoint import Weights, dtype_of, read_into
from merging.inputs.vector import Vector
from merging.methods import _selection as selection
from merging.methods._chunks import CHUNK
from merging.methods._edits import EVERYTHING, NOTHING, Ranks, Window, rank_window
from merging.methods._selection import Count, Counts, Result

_CACHE = "_rank_windows"
_LOCK = Lock()

Chunks = Callable[[], Iterator[Tensor]]
"""Starts a pass over magnitudes (n,), in parts that the next one may overwrite."""


class _Ends(NamedTuple):
    """A window of a whole tensor, and how many entries equal its ends before each chunk."""

    window: Window
    at_low: NDArray[np.int64]
    at_high: NDArray[np.int64]


class _Delta:
    """The magnitudes of one vector's delta, read chunk by chunk.

    Args:
        task: the tensor.
        base: Θ.
        vector: Δ.
        scratch: see windows_at.
    """

    def __init__(self, task: Task, base: Weights, vector: Vector, scratch: Tensor) -> None:
        self.name, self.vector, self._base, self._scratch = task.name, vector, base, scratch
        self.size, self.dtype = task.numel, working_dtype(dtype_of(base, task.name))

    @cached_property
    def _rows(self) -> Tensor:
        # Most blocks look for nothing, and memory that is only taken costs time as well.
        return torch.empty(2, min(CHUNK, self.size), dtype=self.dtype)

    def read(self, start: int, stop: int) -> Tensor:
        """Returns at most CHUNK magnitudes; the next call overwrites them."""
        rows = self._rows[:, : stop - start]
        read_into(self._base, self.name, start, rows[0], self._scratch)
        fill_deltas(self.name, start, rows, self._base, [self.vector], self._scratch)
        return rows[1].abs_()

    def chunks(self) -> Iterator[Tensor]:
        """Yields all magnitudes, CHUNK at a time."""
        for start in range(0, self.size, CHUNK):
            yield self.read(start, min(start + CHUNK, self.size))

    def window(self, ends: _Ends, start: int) -> Window:
        """Returns the window for a block that begins at some element."""
        chunk, window = start // CHUNK, ends.window
        below = [int(ends.at_low[chunk]), int(ends.at_high[chunk])]
        if start % CHUNK:
            before = self.read(chunk * CHUNK, start)
            below[0] += int((before == window.low).sum())
            below[1] += int((before == window.high).sum())
        return window._replace(
            below_low=window.below_low + below[0], below_high=window.below_high + below[1]
        )


def windows_at(
    task: Task, base: Weights, vectors: Sequence[Vector], start: int, scratch: Tensor
) -> tuple[Window, ...]:
    """Returns what each vector keeps of a block, if the method trims; () if it does not.

    What was found is kept with each vector, because it does not depend on the ω.

    Args:
        task: the tensor.
        base: Θ.
        vectors: those of the task.
        start: the block's first element.
        scratch: uint8 that no other thread uses now; see merging.inputs.checkpoint.read_into.
    """
    ranks = task.method.ranks
    if ranks is None or task.whole:
        return ()
    wanted = ranks(task.numel, dict(task.arguments))
    deltas = [_Delta(task, base, vector, scratch) for vector in vectors]
    # What another thread looks for is waited for at the end: meanwhile this one looks for the rest.
    looked_for = [
        _looked_for(delta, own) if own is not None and own[0] < own[1] else None
        for delta, own in zip(deltas, wanted, strict=True)
    ]
    return tuple(
        delta.window(ends.result(), start) if ends else EVERYTHING if own is None else NOTHING
        for delta, ends, own in zip(deltas, looked_for, wanted, strict=True)
    )


def _looked_for(delta: _Delta, ranks: Ranks) -> Future[_Ends]:
    """Returns the window of some ranks of one vector's delta, for which one thread looks, once."""
    # A renaming is made anew for each block; what was found stays with the vector itself.
    vector = delta.vector
    keeper = vector.inner if isinstance(vector, RenamedTensor) else vector
    with _LOCK:
        known: dict[str, tuple[Ranks, Future[_Ends]]] = vars(keeper).setdefault(_CACHE, {})
        own, found = known.get(delta.name, (None, None))
        # Only the last ranks are kept: a density that is dragged has new ones with each move.
        if mine := found is None or own != ranks:
            found = Future()
            known[delta.name] = ranks, found
    assert found is not None
    if mine:
        try:
            found.set_result(_search(delta, ranks))
        except BaseException as error:
            with _LOCK:
                known.pop(delta.name, None)
            found.set_exception(error)
            raise
    return found


def _search(delta: _Delta, ranks: Ranks) -> _Ends:
    if delta.dtype == torch.float64:  # rare, and of few parameters
        window = rank_window(torch.cat([part.clone() for part in delta.chunks()]), *ranks)
    else:
        window = select(delta.chunks, *ranks)
    counts = np.zeros((2, 1 + -(-delta.size // CHUNK)), np.int64)
    # Where an end takes all that equal it, their places do not matter.
    cut = (window.below_low < window.start, window.stop < delta.size)
    if any(cut):
        for chunk, part in enumerate(delta.chunks(), 1):
            for end, value in enumerate((window.low, window.high)):
                if cut[end]:
                    counts[end, chunk] = np.count_nonzero(part.numpy() == value)
    at_low, at_high = counts.cumsum(1)
    return _Ends(window, at_low, at_high)


def select(chunks: Chunks, start: int, stop: int) -> Window:
    """Returns the window of ranks `start` to `stop` − 1, at least one, of float32 magnitudes.

    Args:
        chunks: starts a pass over all magnitudes; called twice.
        start: the first rank in the window, from 0.
        stop: the rank after the last one.
    """

    def pass_over(name: str, count: Count, size: int, then: Callable[[Counts], Result]) -> Result:
        """Counts all magnitudes."""
        counts = np.zeros(size, np.int64)
        for part in chunks():
            count(part, counts)
        return then(counts)

    low, high = selection.select(pass_over, (start, stop - 1))
    return Window(start, stop, low.size, high.size, low.below, high.below)
