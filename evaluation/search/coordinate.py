"""Coordinate search: moves one ω at a time, keeps what helps, halves the step if nothing does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evaluation.search.contract import Searcher, Space, Step


class CoordinateSearch(Searcher):
    """Minimises a score over named coordinates.

    Each round tries every coordinate at +step, then at -step, around the best point so far, and
    moves at once if the score is lower. A round without a move halves the step. The search ends
    when the step falls below `smallest`.

    >>> space = Space({"cot": (0, 1), "p3": (0, 1)})
    >>> search = CoordinateSearch(space, {"cot": 0.5, "p3": 0.5}, step=0.2)
    >>> while (point := search.ask()) is not None:
    ...     search.tell(Trial(point, (point["cot"] - 0.7) ** 2 + (point["p3"] - 0.3) ** 2))
    >>> search.best.point
    {'cot': 0.7, 'p3': 0.3}

    Args:
        space: the box to search.
        start: the first point; the coordinates are tried in the order of the space.
        step: the first step, at least `smallest`.
        smallest: smaller steps are not tried; above 0.
        at_once: see Searcher. So many moves are tried before the best of them is taken.

    Raises:
        ValueError: the settings contradict each other.
    """

    def __init__(
        self,
        space: Space,
        start: Mapping[str, float],
        *,
        step: float = 0.2,
        smallest: float = 0.05,
        at_once: int = 1,
    ) -> None:
        super().__init__(space, at_once)
        if not 0 < smallest <= step:
            raise ValueError(
                f"expected 0 < smallest <= step, got smallest {smallest}, step {step}."
            )
        self._start, self._step, self._smallest = space.inside(start), step, smallest

    def _points(self) -> Iterator[Step]:
        best, step = self._start, self._step
        yield best
        while step >= self._smallest:
            moved = False
            left = [(name, change) for name in self.space.names for change in (step, -step)]
            while left:
                tried, left = left[: self.at_once], left[self.at_once :]
                points = [
                    self.space.inside({**best, name: best[name] + change}) for name, change in tried
                ]
                yield points
                point, (name, _) = min(
                    zip(points, tried, strict=True), key=lambda each: self._told(each[0])
                )
                # Strictly lower: between points of equal score the search would go back and forth
                # for ever.
                if self._told(point) < self._told(best):
                    best, moved = point, True
                    # After a step up that helped, the step down leads back: it is not tried.
                    left = [move for move in left if move[0] != name]
            if not moved:
                step /= 2
