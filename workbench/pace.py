"""The time left of some work, from how fast it has gone on lately."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

LEAST = 10.0
"""Seconds that a pace is measured over, if the work has taken as long already."""
EARLY = 0.05
"""Before this share is done, and LEAST seconds have passed, start-up dominates the pace."""


class Pace:
    """The measured pace of some work: over the later half of its time, and at least LEAST seconds.

    Over all of its time, a fast beginning would promise too much, and a slow one too little, to the
    very end; over the last second alone the estimate would jump.

    Args:
        begin: when the work began, in the seconds of time.monotonic.
    """

    def __init__(self, begin: float | None = None) -> None:
        self._begin = time.monotonic() if begin is None else begin
        self._marks = deque([(self._begin, 0.0)])

    def mark(self, share: float, now: float | None = None) -> None:
        """Tells that this share of the work, 0 to 1, is done."""
        now = time.monotonic() if now is None else now
        self._marks.append((now, share))
        # The last mark before the window stays: the pace is measured from it.
        since = self._since(now)
        while len(self._marks) > 2 and self._marks[1][0] <= since:
            self._marks.popleft()

    def left(self, now: float | None = None) -> float | None:
        """Returns the seconds left, at least 1; None if that is not known yet, or all is done."""
        now = time.monotonic() if now is None else now
        marks = list(self._marks)  # a copy, because another thread may be marking
        share, spent = marks[-1][1], now - self._begin
        if not 0 < share < 1 or (share < EARLY and spent < LEAST):
            return None
        since = self._since(now)
        first, before = next((mark for mark in reversed(marks) if mark[0] <= since), marks[0])
        # What stands still has no pace but that of all its time.
        if share <= before:
            first, before = self._begin, 0.0
        return max(1.0, (now - first) * (1 - share) / (share - before))

    def _since(self, now: float) -> float:
        """Returns the beginning of the time that the pace is measured over."""
        return now - max(LEAST, (now - self._begin) / 2)


def time_left_column() -> ProgressColumn:
    """Returns the column with the time left for the bars of a terminal.

    rich's own column knows the last 30 seconds only, and a step may take longer.
    """
    from datetime import timedelta

    from rich.progress import ProgressColumn, Task, TaskID
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        max_refresh = 0.5

        def __init__(self) -> None:
            super().__init__()
            self._paces: dict[TaskID, Pace] = {}

        def render(self, task: Task) -> Text:
            now = task.get_time()
            pace = self._paces.setdefault(task.id, Pace(task.start_time or now))
            pace.mark(task.completed / task.total if task.total else 0.0, now)
            left = pace.left(now)
            shown = "-:--:--" if left is None else str(timedelta(seconds=round(left)))
            return Text("" if task.finished else shown, style="progress.remaining")

    return TimeLeft()
