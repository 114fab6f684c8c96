"""Counts the requests of one benchmark run, for its progress and to stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from evaluation.errors import Stopped

Progress = Callable[[int, int, str], None]
"""Called with the requests done, the requests in all (an estimate at first), and their kind."""

KINDS = {
    "loglikelihood": "scoring choices",
    "loglikelihood_rolling": "scoring texts",
    "generate_until": "writing answers",
}
"""lm-eval's kinds of request -> what the user reads."""


class RequestCounter:
    """Adds up the requests over the several progress bars that lm-eval opens in one run.

    Args:
        progress: see Progress.
        should_stop: asked at least once per request.
    """

    def __init__(
        self, progress: Progress | None = None, should_stop: Callable[[], bool] | None = None
    ) -> None:
        self.progress, self.should_stop = progress, should_stop
        self.expected: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def expect(self, tasks: Iterable[Any], limit: int | None) -> None:
        """Estimates the requests of each kind: one per example, or one per choice of an example.

        All examples of a task are assumed to have as many choices as its first one.
        """
        for task in tasks:
            docs = task.eval_docs
            count = min(len(docs), limit or len(docs))
            choices = task.OUTPUT_TYPE == "multiple_choice"
            # For multiple choice, lm-eval asks for one log-likelihood per choice.
            kind = KINDS["loglikelihood" if choices else task.OUTPUT_TYPE]
            per_example = (
                len(task.doc_to_choice(docs[0]))
                if choices and task.config.doc_to_choice is not None
                else 1
            )
            self.expected[kind] = self.expected.get(kind, 0) + count * per_example

    def begin(self, kind: str, total: int) -> None:
        """Replaces the estimate for one kind with the exact number, once that is known."""
        self.expected[kind], self.done[kind] = total, 0
        self.step(kind, 0)

    def step(self, kind: str, count: int) -> None:
        """Adds answered requests and reports the progress.

        Raises:
            Stopped: `should_stop` returned True.
        """
        # lm-eval's `evaluate` takes no callback. An error that a bar raises passes through it
        # unchanged, and the next run works.
        if self.should_stop is not None and self.should_stop():
            raise Stopped(f"stopped while {kind}")
        # Bars of other work, such as building the requests, open without `begin`.
        if kind in self.done:
            self.done[kind] += count
            if self.progress is not None:
                self.progress(sum(self.done.values()), sum(self.expected.values()), kind)


counter: ContextVar[RequestCounter] = ContextVar("counter", default=RequestCounter())  # noqa: B039  (the default is never changed)
"""The counter of the run in this thread: lm-eval's bars, which are classes, find it here."""
