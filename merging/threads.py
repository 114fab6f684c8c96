"""Computes items in several threads and returns the results in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 8
"""The default limit of threads: eight compute faster than a disk writes; each holds some 10 MB."""

TICK = 0.2
"""Seconds between two calls of whoever shows how far a long computation is."""


def workers() -> int:
    """Returns the default number of threads: as many as torch uses, at most MOST."""
    return min(torch.get_num_threads(), MOST)


def in_order(
    items: Iterable[Item],
    compute: Callable[[Item], Result],
    *,
    size: Callable[[Item], int] = lambda item: 1,
    room: int,
    threads: int | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """Yields compute(item) for each item, in their order, computing several at a time.

    Args:
        items: the inputs; taken one by one as room becomes free.
        compute: called in a thread in which torch's operators use only that thread, so that its
            bits do not depend on the number of threads.
        size: returns the size of an item, in any unit.
        room: the largest total size of items that are being computed or whose results were not yet
            taken. An item larger than this is computed alone.
        threads: the number of threads; `workers()` by default.
        tick: called every TICK seconds in the caller's thread, while it waits for a result. It may
            raise to stop.

    Raises:
        Exception: whatever compute raises, when its item's turn comes. Later items are dropped.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    under_way = 0
    with _POOLS[threads or workers()].borrowed() as pool:
        try:
            # A slow item holds back the results of later ones, so `room` bounds what these take.
            for item in items:
                need = size(item)
                # With nothing else under way an item is taken whatever its size: one larger than
                # `room` must not wait for ever.
                while waiting and under_way + need > room:
                    future, taken = waiting.popleft()
                    yield _result(future, tick)
                    under_way -= taken
                waiting.append((pool.submit(compute, item), need))
                under_way += need
            while waiting:
                yield _result(waiting.popleft()[0], tick)
        finally:
            # After an error, or if the caller stops early, items that have not begun must not run,
            # and those that have begun must be done before the caller uses their memory again.
            for future, _ in waiting:
                future.cancel()
            wait([future for future, _ in waiting])


def _result(future: Future[Result], tick: Callable[[], object]) -> Result:
    """Returns the result of a future; see in_order for `tick`."""
    while not future.done() and not wait([future], TICK).done:
        tick()
    return future.result()


class Spare(Generic[Item]):
    """A pool of objects that threads borrow in turn; it makes a new object if none is free.

    Args:
        make: makes an object.
    """

    def __init__(self, make: Callable[[], Item]) -> None:
        self._make = make
        self._free: SimpleQueue[Item] = SimpleQueue()

    def take(self) -> Item:
        """Returns an object that no other thread uses until it is given back."""
        try:
            return self._free.get_nowait()
        except Empty:
            return self._make()

    def give(self, thing: Item) -> None:
        """Gives an object back."""
        self._free.put(thing)

    @contextmanager
    def borrowed(self) -> Iterator[Item]:
        """Lends an object for the length of the block."""
        thing = self.take()
        try:
            yield thing
        finally:
            self.give(thing)


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Makes a pool in each of whose threads torch's operators use only that thread.

    torch.set_num_threads sets the number for the calling thread and for threads that start later.
    So each thread of the pool calls it first, and then this thread restores the old number before
    any work begins: no other thread keeps a changed setting.
    """
    ours = torch.get_num_threads()
    # A thread that waits at the barrier takes no second call, so each thread makes exactly one.
    ready = threading.Barrier(count + 1)

    def alone() -> None:
        """Makes torch's operators use only the calling thread."""
        torch.get_num_threads()  # a thread's first call of torch sets its number to the common one
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="merging")
    for _ in range(count):
        pool.submit(alone)
    ready.wait()
    torch.set_num_threads(ours)
    return pool


class _Pools(dict[int, Spare[ThreadPoolExecutor]]):
    """Pools that are not in use, by their number of threads.

    They are kept, because the first operators in a new thread take memory from the kernel: the
    losses of 40 examples on 2 million parameters took 0.134 s, and 0.160 s with new threads for
    each step.
    """

    def __missing__(self, count: int) -> Spare[ThreadPoolExecutor]:
        self[count] = spare = Spare(lambda: _single_threads(count))
        return spare


_POOLS = _Pools()
# A child process has the pools' records, but not their threads.
os.register_at_fork(after_in_child=_POOLS.clear)
