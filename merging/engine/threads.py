"""Threads that compute pieces side by side, and hand them over in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


MOST = 8
"""Threads. Each holds some ten megabytes, and eight read and compute faster than a disk writes."""


def workers() -> int:
    """How many threads there are where nobody says how many."""
    return min(torch.get_num_threads(), MOST)


def in_order(
    items: Iterable[Item],
    compute: Callable[[Item], Result],
    *,
    size: Callable[[Item], int] = lambda item: 1,
    room: int,
    threads: int | None = None,
) -> Iterator[Result]:
    """compute(item) for each item, in their order, several at a time.

    Args:
        items: what to compute.
        compute: called in a thread in which torch's operators use that thread only, so that its bits do not depend on
            how many there are.
        size: what an item takes, in any unit.
        room: how much may be under way at once, results that were not yet taken included; an item that is larger than
            this goes alone.
        threads: how many; if not given as many as torch would use, but no more than MOST.

    Raises:
        whatever compute raises, at its item; the items behind it are dropped.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    under_way = 0
    with _single_threads(threads or workers()) as pool:
        try:
            for item in items:
                need = size(item)
                while waiting and under_way + need > room:
                    future, taken = waiting.popleft()
                    yield future.result()
                    under_way -= taken
                waiting.append((pool.submit(compute, item), need))
                under_way += need
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()


class Spare(Generic[Item]):
    """Things that threads use in turn: one that nobody uses now, or one made where there is none.

    Args:
        make: called for a new one.
    """

    def __init__(self, make: Callable[[], Item]) -> None:
        self._make = make
        self._free: SimpleQueue[Item] = SimpleQueue()

    def take(self) -> Item:
        """One to be used until it is given back."""
        try:
            return self._free.get_nowait()
        except Empty:
            return self._make()

    def give(self, thing: Item) -> None:
        """Done with it."""
        self._free.put(thing)

    @contextmanager
    def borrowed(self) -> Iterator[Item]:
        """One for the time of the block."""
        thing = self.take()
        try:
            yield thing
        finally:
            self.give(thing)


@contextmanager
def _single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads run torch's operators alone.

    torch.set_num_threads speaks for the thread that calls it and for those that come later. So it is called in each
    thread of the pool, and then once more here, before any work begins: no other thread keeps a changed setting.
    """
    ours = torch.get_num_threads()
    up = threading.Barrier(count + 1)

    def alone() -> None:
        torch.get_num_threads()  # a thread's first call of anything sets it to what all have
        torch.set_num_threads(1)
        up.wait()

    with ThreadPoolExecutor(count, thread_name_prefix="merging") as pool:
        for _ in range(count):
            pool.submit(alone)
        up.wait()
        torch.set_num_threads(ours)
        yield pool
