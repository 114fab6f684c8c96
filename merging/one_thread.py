"""Keeps the linear algebra of numpy and scipy at one thread while somebody asks for it."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


class OneThread:
    """A block in which numpy and scipy compute with one thread; threads may be in it side by side.

    Where matrices are small or other work goes on, more threads wait for each other in a loop. On
    two cores that other work kept busy, the fits of a search over 20 ω took 113 s with two threads
    and 0.8 s with one.

    The libraries' limit holds for the whole process, so it is lifted only when the last has left.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, ExitStack()
        # threadpoolctl lets only that thread lift a limit which has set it.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="blas")

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._keeper.submit(self._begin).result()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._keeper.submit(self._limit.close).result()

    def _begin(self) -> None:
        self._limit.enter_context(_libraries().limit(limits=1))


@cache
def _libraries() -> ThreadpoolController:
    # The search takes time, so it is done once, with the libraries of both loaded.
    import scipy.linalg  # type: ignore[import-untyped]  # noqa: F401

    # Without those of OpenMP: torch's own number of threads is one for each thread.
    return ThreadpoolController().select(user_api="blas")


one_thread = OneThread()
# A child process has no thread that could lift a limit.
os.register_at_fork(after_in_child=one_thread.__init__)  # type: ignore[misc]
