"""Shares the live module between pages: small steps, the most urgent first, one after another.

Work on the live module is cut into steps of some 20 ms. After each step the scheduler asks again
what is most urgent. So a newer move of one page overtakes the full losses of another, and pages
that want the same kind of work are served in turn.

Each change of the page composes another recipe. On a large model that takes longer than a step, so
there a page is served for some steps before it is another one's turn.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Rank(IntEnum):
    """How urgent a phase of work is; a lower one goes first."""

    SETTLE = 0
    """Compose, and answer that the move has arrived."""
    QUICK = 1
    """Losses of a few examples."""
    ANSWER = 2
    """The next tokens of an answer to a prompt."""
    FULL = 3
    """Losses of all examples."""
    SLOPES = 4
    """Derivatives of these losses, from which predictions become better."""


LONG, TURN = 0.1, 4
"""A page whose first step took more than LONG seconds is served for TURN times as long."""

Phase = tuple[Rank, Iterator[Any]]
"""A rank and steps of that rank. Each `next()` is one step; it yields a message, or None."""


@dataclass
class _Task:
    """What one page waits for."""

    phases: Iterator[Phase]
    deliver: Callable[[Any], None]
    ended: Callable[[Exception | None], None]
    current: Phase | None = None
    served: int = 0
    """The number of the step in which it was served last: the lowest of equal rank goes first."""
    closed: bool = False


class Scheduler:
    """Carries out the tasks of all pages in one thread. May be used from any thread.

    A page has one task at a time: a new one replaces the old one at its next step.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._replaced: list[_Task] = []
        self._ready = threading.Condition()
        self._steps = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._stopping = False
        # The page whose turn it is among those of equal rank, and when its turn ends.
        self._turn, self._until = "", 0.0

    def submit(
        self,
        page: str,
        phases: Iterator[Phase],
        deliver: Callable[[Any], None],
        ended: Callable[[Exception | None], None],
    ) -> Callable[[], None]:
        """Gives a page a new task, in the place of its old one, and returns what cancels it.

        Args:
            page: the page.
            phases: the phases of the task, carried out in order. They are asked for one by one, so
                a phase may decide what follows it.
            deliver: called in the scheduler's thread with each message that a step yields.
            ended: called there once: with None when the last phase has ended or the task was
                replaced, or with the error that a step raised.
        """
        task = _Task(phases, deliver, ended)
        with self._ready:
            replaced = self._drop(page)
            if not self._stopping:
                self._tasks[page] = task
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="live line", daemon=True)
                self._thread.start()
            self._ready.notify()
            refused = self._stopping
        for other in filter(None, (replaced, task if refused else None)):
            self._end(other)

        def cancel() -> None:
            with self._ready:
                if self._tasks.get(page) is task:
                    self._drop(page)
                    self._ready.notify()
            self._end(task)

        return cancel

    def is_awaited(self) -> bool:
        """Returns whether a page waits for something more urgent than derivatives."""
        with self._ready:
            return any(_rank(task) < Rank.SLOPES for task in self._tasks.values())

    def _drop(self, page: str) -> _Task | None:
        """Takes a page's task out; the thread ends its generators, because it may be in one."""
        task = self._tasks.pop(page, None)
        if task is not None:
            self._replaced.append(task)
        return task

    def close(self) -> None:
        """Ends all tasks and the thread."""
        with self._ready:
            self._stopping = True
            tasks = [task for page in list(self._tasks) if (task := self._drop(page))]
            self._ready.notify()
        for task in tasks:
            self._end(task)
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self._ready:
                while not (self._tasks or self._replaced or self._stopping):
                    self._ready.wait()
                replaced, self._replaced = self._replaced, []
                chosen = min(self._tasks.items(), key=self._urgency, default=None)
                stopping = self._stopping
            for task in replaced:
                _close(task)
            if stopping:
                return
            if chosen is not None:
                self._serve(*chosen)

    def _serve(self, page: str, task: _Task) -> None:
        """Carries out one step of a task, with which a turn of its page may begin."""
        rank, begin = _rank(task), time.monotonic()
        begins = not self._has_turn(page)
        self._step(page, task)
        # Settling comes before everything else, so it needs no turn and ends none.
        if begins and rank is not Rank.SETTLE:
            now = time.monotonic()
            turn = TURN * (now - begin) if now - begin > LONG else 0.0
            self._turn, self._until = page, now + turn

    def _has_turn(self, page: str) -> bool:
        return page == self._turn and time.monotonic() < self._until

    def _urgency(self, item: tuple[str, _Task]) -> tuple[Rank, bool, int]:
        """Returns a sort key: the rank of the next step, whose turn it is, who was served last."""
        page, task = item
        return _rank(task), not self._has_turn(page), task.served

    def _step(self, page: str, task: _Task) -> None:
        """Carries out one step of a task; ends the task if it was its last, or failed."""
        task.served = next(self._steps)
        try:
            if task.current is None:
                task.current = next(task.phases, None)
                if task.current is None:
                    self._finish(page, task, None)
                return
            message = next(task.current[1], _LAST)
            if message is _LAST:
                task.current = None
            elif message is not None and not task.closed:
                task.deliver(message)
        # Whatever a step raises belongs to the page that waits for it; the other pages go on.
        except Exception as error:
            self._finish(page, task, error)

    def _finish(self, page: str, task: _Task, error: Exception | None) -> None:
        with self._ready:
            # It may have been replaced during the step.
            if self._tasks.get(page) is task:
                del self._tasks[page]
        _close(task)
        self._end(task, error)

    def _end(self, task: _Task, error: Exception | None = None) -> None:
        """Tells the page once that its task has ended. Steps that are left are never taken."""
        with self._ready:
            if task.closed:
                return
            task.closed = True
        task.ended(error)


_LAST = object()
"""Tells the end of a phase from a step without a message."""


def _close(task: _Task) -> None:
    """Runs the cleanup of a task's generators, such as writing what its steps cost."""
    steps = [task.current[1]] if task.current else []
    for iterator in (*steps, task.phases):
        if isinstance(iterator, Generator):
            iterator.close()


def _rank(task: _Task) -> Rank:
    """Returns the rank of a task's next step."""
    # The rank of a phase that has not begun is not known, and asking for it costs nothing.
    return task.current[0] if task.current else Rank.SETTLE
