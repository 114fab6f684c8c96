"""Coordinate search: moves one ω at a time, keeps what helps, halves the step if nothing does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

Point = dict[str, float]
DIGITS = 4
"""Points are rounded to this many decimals, so that a point that is reached in two ways is
recognised and not scored twice.
"""


class Trial(NamedTuple):
    """A point with its score; lower is better."""

    point: Point
    """Name of a coordinate -> its value."""
    score: float


class CoordinateSearch:
    """Minimises a score over named coordinates. The caller scores the points that `ask` returns.

    Each round tries every coordinate at +step, then at -step, around the best point so far, and
    moves at once if the score is lower. A round without a move halves the step. The search ends
    when the step falls below `smallest`.

    >>> search = CoordinateSearch({"cot": 0.5, "p3": 0.5}, step=0.2)
    >>> while (point := search.ask()) is not None:
    ...     search.tell(point, (point["cot"] - 0.7) ** 2 + (point["p3"] - 0.3) ** 2)
    >>> search.best.point
    {'cot': 0.7, 'p3': 0.3}

    Args:
        start: the first point. Its keys are the coordinates, in the order in which they are tried.
        step: the first step, at least `smallest`.
        smallest: smaller steps are not tried; above 0.
        low: lowest value of a coordinate.
        high: highest value of a coordinate.

    Raises:
        ValueError: there is no coordinate, or the settings contradict each other.
    """

    def __init__(
        self,
        start: Mapping[str, float],
        *,
        step: float = 0.2,
        smallest: float = 0.05,
        low: float = 0.0,
        high: float = 1.5,
    ) -> None:
        if not start:
            raise ValueError(
                'a search needs at least one coordinate, for example {"cot": 0.5}; got none.'
            )
        if not (low <= high and 0 < smallest <= step):
            raise ValueError(
                f"expected low <= high and 0 < smallest <= step, got low {low}, high {high}, "
                f"smallest {smallest}, step {step}."
            )
        self._names = tuple(start)
        self._low, self._high = low, high
        self._best = self._inside(tuple(start.values()))
        self._scores: dict[tuple[float, ...], float] = {}
        # A generator keeps its place in the loops between `ask` and `tell`.
        self._walk = self._points(step, smallest)
        self._pending: tuple[float, ...] | None = None

    def ask(self) -> Point | None:
        """Returns the next point to score, never one that was scored before; None at the end.

        Before its score is known, the same point is returned again.
        """
        if self._pending is None:
            self._pending = next(self._walk, None)
        return None if self._pending is None else self._named(self._pending)

    def tell(self, point: Mapping[str, float], score: float) -> None:
        """Records the score of the point that `ask` returned last; lower is better.

        Raises:
            ValueError: `point` is another one.
        """
        # NaN for a missing coordinate: it equals nothing, so such a point is refused.
        values = tuple(point.get(name, float("nan")) for name in self._names)
        if self._pending is None or values != self._pending:
            raise ValueError(
                f"tell() takes the point that ask() returned last, {self.ask()}; got {dict(point)}."
            )
        self._scores[values] = score
        self._pending = None

    @property
    def best(self) -> Trial:
        """The best point scored so far. Before the first score: the start, with score infinity."""
        best = min(self._scores, key=self._scores.__getitem__, default=self._best)
        return Trial(self._named(best), self._scores.get(best, float("inf")))

    @property
    def trials(self) -> list[Trial]:
        """All scored points, in the order in which `ask` returned them."""
        return [Trial(self._named(values), score) for values, score in self._scores.items()]

    def _points(self, step: float, smallest: float) -> Iterator[tuple[float, ...]]:
        """Yields points that have no score yet, and continues once `tell` has recorded it."""
        yield self._best
        while step >= smallest:
            moved = False
            for axis in range(len(self._names)):
                for change in (step, -step):
                    shifted = (
                        *self._best[:axis],
                        self._best[axis] + change,
                        *self._best[axis + 1 :],
                    )
                    point = self._inside(shifted)
                    if point not in self._scores:
                        yield point
                    # Strictly lower: between points of equal score the search would go back and
                    # forth for ever.
                    if self._scores[point] < self._scores[self._best]:
                        # After a step up that helped, the step down leads back: it is not tried.
                        self._best, moved = point, True
                        break
            if not moved:
                step /= 2

    def _inside(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Returns a point moved into the bounds and rounded to DIGITS decimals."""
        return tuple(round(min(max(value, self._low), self._high), DIGITS) for value in values)

    def _named(self, values: tuple[float, ...]) -> Point:
        """Returns a point as a dictionary by the names of the coordinates."""
        return dict(zip(self._names, values, strict=True))
