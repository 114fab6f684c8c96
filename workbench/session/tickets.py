"""Tickets: tell which request of a page is the newest, so that work for older ones can stop."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

Stale = Callable[[], bool]
"""Called by long work between two steps; True once nobody waits for its result any longer."""


class Tickets:
    """The newest request of each page; a newer request makes the older ones of its page stale.

    May be used from any thread.
    """

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._count = itertools.count(1)
        # A second count, made by the page: requests may arrive in another order than they were sent
        # in.
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def ticket(self, client: str) -> Stale:
        """Returns the ticket of a new request; the ticket is True once the request is stale.

        Args:
            client: a page, or "PAGE:WORK" for work that only newer work of its kind makes stale.
        """
        with self._lock:
            return self._next(client)

    def wish(self, client: str, number: int) -> Stale | None:
        """Returns the ticket of a request, or None if a later request has already arrived.

        Args:
            client: a page.
            number: the page's own count of its requests, since they may arrive out of order.
        """
        with self._lock:
            # Compared and counted in one step: in between, a newer request could get its ticket and
            # then be made stale by this older one.
            return self._next(client) if self._is_newest(client, number) else None

    def newest(self, client: str, number: int) -> bool:
        """Returns whether no later request has arrived; makes no other request stale."""
        with self._lock:
            return self._is_newest(client, number)

    def forget(self, client: str) -> None:
        """Makes all requests of a closed page stale and drops what is stored about it."""
        with self._lock:
            # With the keys PAGE:WORK, or the dictionary would grow with every page that was ever
            # open.
            for key in [key for key in self._newest if key.split(":")[0] == client]:
                del self._newest[key]
            self._numbers.pop(client, None)

    def _next(self, client: str) -> Stale:
        # Numbers are never used twice: a page that was forgotten and comes back would else make a
        # ticket of its first life look fresh.
        number = self._newest[client] = next(self._count)
        # Without the lock, because work asks at every step. A page that was forgotten has no
        # number, so its requests are stale.
        return lambda: self._newest.get(client) != number

    def _is_newest(self, client: str, number: int) -> bool:
        newest = number >= self._numbers.get(client, 0)
        self._numbers[client] = max(number, self._numbers.get(client, 0))
        return newest
