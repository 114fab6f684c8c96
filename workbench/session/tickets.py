"""Tell long work when nobody waits for it any longer, and when to give way."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Stale = Callable[[], bool]
"""Called by long work between two steps; True once nobody waits for its result any longer."""


class Tickets:
    """The newest request of each page; a newer request makes the older ones of its page stale.

    May be used from any thread.
    """

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._count = itertools.count(1)
        self._lock = threading.Lock()

    def ticket(self, client: str) -> Stale:
        """Returns the ticket of a new request; the ticket is True once the request is stale.

        Args:
            client: a page, or "PAGE:WORK" for work that only newer work of its kind makes stale.
        """
        with self._lock:
            # Numbers are never used twice: a page that was forgotten and comes back would else make
            # a ticket of its first life look fresh.
            number = self._newest[client] = next(self._count)
        # Without the lock, because work asks at every step. A page that was forgotten has no
        # number, so its requests are stale.
        return lambda: self._newest.get(client) != number

    def forget(self, client: str) -> None:
        """Makes all requests of a closed page stale and drops what is stored about it."""
        with self._lock:
            # With the keys PAGE:WORK, or the dictionary would grow with every page that was ever
            # open.
            for key in [key for key in self._newest if key.split(":")[0] == client]:
                del self._newest[key]


class Urgent:
    """Tells whether a page waits for something, so that work that can wait gives way.

    May be used from any thread.
    """

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes other work wait while the block lasts."""
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def __bool__(self) -> bool:
        """Whether somebody is in a `held` block."""
        return self._count > 0

    def wait(self, stale: Stale, most: float = 5.0) -> None:
        """Waits until nobody is in a `held` block or `stale` is true, at most so many seconds."""
        end = time.monotonic() + most
        with self._changed:
            # It is asked again now and then, because nobody notifies of a newer request.
            while self._count and not stale() and time.monotonic() < end:
                self._changed.wait(0.1)


class CountedLock:
    """A reentrant lock that tells whether a thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting = 0
        self._counting = threading.Lock()

    def __enter__(self) -> None:
        self._count(1)
        try:
            self._lock.acquire()
        finally:
            self._count(-1)

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def _count(self, by: int) -> None:
        with self._counting:
            self._waiting += by

    @property
    def wanted(self) -> bool:
        """Whether a thread waits for the lock."""
        return self._waiting > 0
