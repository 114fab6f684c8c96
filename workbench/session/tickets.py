"""Tickets: which request of a page is the newest, so that work for older ones can stop."""

from __future__ import annotations

import threading

from workbench.session.sizes import Stale


class Tickets:
    """The newest request of each page. A newer request of a page makes its older ones stale."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def ticket(self, client: str) -> Stale:
        """A ticket for a new request; calling it tells whether a newer request of the same client has come.

        Args:
            client: a page, or "PAGE:WORK" for work that only its own kind overtakes.
        """
        with self._lock:
            return self._next(client)

    def wish(self, client: str, number: int) -> Stale | None:
        """A ticket for the request with this number, as the page counts; None if a later one came before it."""
        with self._lock:
            return self._next(client) if self._is_newest(client, number) else None

    def newest(self, client: str, number: int) -> bool:
        """Whether no request with a higher number came before this one. Makes no other request stale."""
        with self._lock:
            return self._is_newest(client, number)

    def forget(self, client: str) -> None:
        """The page is gone: all its requests are stale, and nothing of it is kept."""
        with self._lock:
            for known in [known for known in self._newest if known.split(":")[0] == client]:
                del self._newest[known]
            self._numbers.pop(client, None)

    def _next(self, client: str) -> Stale:
        number = self._newest[client] = self._newest.get(client, 0) + 1
        return lambda: self._newest.get(client) != number

    def _is_newest(self, client: str, number: int) -> bool:
        newest = number >= self._numbers.get(client, 0)
        self._numbers[client] = max(number, self._numbers.get(client, 0))
        return newest
