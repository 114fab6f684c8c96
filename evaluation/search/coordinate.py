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
    ) -> None:
        super().__init__(space)
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
            for name in self.space.names:
                for change in (step, -step):
                    point = self.space.inside({**best, name: best[name] + change})
                    if self.score_of(point) is None:
                        yield point
                    # Strictly lower: between points of equal score the search would go back and
                    # forth for ever.
                    if self._told(point) < self._told(best):
                        # After a step up that helped, the step down leads back: it is not tried.
                        best, moved = point, True
                        break
            if not moved:
                step /= 2
