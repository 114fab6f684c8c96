"""The interface of all that has units measured elsewhere: submit, poll, result, cancel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from workbench.workers.unit import Unit, UnitResult


class WorkerLost(Exception):
    """The worker that had a unit is gone; the unit may be submitted again."""


class Seat(NamedTuple):
    """What tells one worker from the others.

    Attributes:
        number: from 0; with several devices it says which one the worker uses.
        threads: of torch; 0 leaves their number as it is.
        scratch: a folder of its own for files that nobody else needs.
    """

    number: int
    threads: int
    scratch: Path


class Bench(Protocol):
    """Keeps models open, and measures one unit after another."""

    def measure(self, unit: Unit, stale: Callable[[], bool]) -> UnitResult:
        """Returns what was measured; see workbench.search.unit_bench.

        Raises:
            Stopped: `stale` became true.
        """


OpenBench = Callable[[Seat], AbstractContextManager[Bench]]
"""A function of a module, so that other processes find it by its name."""


class Executor(ABC):
    """Has units measured by workers; as a context manager it closes itself.

    Attributes:
        width: how many units are measured at a time.
    """

    width: int

    @abstractmethod
    def submit(self, unit: Unit) -> None:
        """Gives a unit to the workers. Its result and its loss of before are forgotten.

        Raises:
            SessionError: the workers cannot be started.
        """

    @abstractmethod
    def poll(self, unit: Unit) -> bool:
        """Returns at once whether a unit that was submitted has ended, measured or not.

        Raises:
            SessionError: the workers cannot be started.
        """

    @abstractmethod
    def result(self, unit: Unit) -> UnitResult:
        """Returns the result of a unit that has ended.

        Raises:
            WorkerLost: it has none; the message says what happened to its worker.
        """

    @abstractmethod
    def cancel(self, unit: Unit) -> None:
        """Forgets a unit and its result; a worker that measures it stops."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers. Closing it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
