"""Searches a few coordinates first, and gives parts of them values of their own later on.

So ω for each group of layers are found: first one ω for each vector, then the groups are opened one
after another, as AP-BMM (arXiv 2512.09972) opens blocks in the order of their importance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.search.contract import Measured, Point, Searcher, Space, Step, Trial
from evaluation.search.limits import Floats, Limit

Ties = Mapping[str, tuple[str, ...]]
"""Name of a coordinate of a stage -> the coordinates of the whole space that have its value."""

BATCH = 64
"""Points that are taken at once from a searcher that can give many."""

Make = Callable[[Space, Point, Sequence[Trial]], Searcher]
"""Makes the searcher of a stage, from its space, its first point and the trials known before."""


@dataclass(frozen=True, eq=False)
class TiedLimit(Limit):
    """A limit on coordinates that are tied to fewer ones.

    Attributes:
        names: the fewer coordinates.
        highest: that of the limit.
        inner: the limit.
        matrix: (coordinates of the limit, names) float64: 1 where a coordinate has that value.
    """

    names: tuple[str, ...]
    highest: float
    inner: Limit
    matrix: Floats

    @classmethod
    def of(cls, inner: Limit, ties: Ties) -> TiedLimit:
        """Returns a limit as one on the coordinates of a stage."""
        names = tuple(name for name, tied in ties.items() if set(tied) & set(inner.names))
        rows = [[float(each in ties[name]) for name in names] for each in inner.names]
        return cls(names, inner.highest, inner, np.array(rows))

    def value(self, values: Floats) -> float:
        """Returns the value of the limit."""
        return self.inner.value(self.matrix @ values)

    def slope(self, values: Floats) -> Floats:
        """Returns its derivatives by the fewer coordinates."""
        return np.asarray(self.matrix.T @ self.inner.slope(self.matrix @ values))

    def words(self) -> str:
        """Returns what it demands, for the user."""
        return self.inner.words()


class StagedSearch(Searcher):
    """Runs one searcher for each stage; each begins at the best point of those before.

    Every stage learns from the trials of the stages before it: a point of few coordinates is one of
    many, and the derivative by a tied coordinate is the sum of those that it ties.

    Args:
        space: the whole space.
        stages: the ties of each stage, coarse to fine. Each coordinate of the space is tied once in
            every stage, and what is apart in one stage stays apart in the next.
        points: how many points each stage but the last may ask for.
        start: the first point.
        make: makes the searcher of a stage.
        known: trials of the whole space that were measured before.

    Attributes:
        parts: the searchers of the stages so far.
    """

    def __init__(
        self,
        space: Space,
        stages: Sequence[Ties],
        points: Sequence[int],
        start: Mapping[str, float],
        make: Make,
        *,
        known: Sequence[Trial] = (),
    ) -> None:
        super().__init__(space)
        self._stages, self._counts = stages, [*points, None]
        self._start, self._make, self._known = space.inside(start), make, known
        first = self._searcher(stages[0], self._start)
        self.GRADIENTS = first.GRADIENTS
        self.parts: list[Searcher] = []

    def _points(self) -> Iterator[Step]:
        for ties, most in zip(self._stages, self._counts, strict=True):
            best = self.best
            searcher = self._searcher(ties, best.point if best else self._start)
            self.parts.append(searcher)
            left = math.inf if most is None else most
            while left > 0 and (free := searcher.free(int(min(left, BATCH)))):
                points = [
                    self.space.inside(
                        {each: few[name] for name, tied in ties.items() for each in tied}
                    )
                    for few in free
                ]
                left -= sum(self.score_of(point) is None for point in points)
                yield points
                done = {tuple(trial.point.values()): trial for trial in self.trials}
                for few, point in zip(free, points, strict=True):
                    trial = done[tuple(point.values())]
                    searcher.tell(trial._replace(point=few, measured=_tied(trial.measured, ties)))

    def _searcher(self, ties: Ties, start: Point) -> Searcher:
        bounds = {name: self.space.bounds[tied[0]] for name, tied in ties.items()}
        space = Space(bounds, tuple(TiedLimit.of(limit, ties) for limit in self.space.limits))
        known = [
            trial._replace(
                point={name: trial.point[tied[0]] for name, tied in ties.items()},
                measured=_tied(trial.measured, ties),
            )
            for trial in (*self._known, *self.trials)
            # A finer trial is none of this stage.
            if all(
                trial.point[each] == trial.point[tied[0]] for tied in ties.values() for each in tied
            )
        ]
        first = {name: start[tied[0]] for name, tied in ties.items()}
        return self._make(space, space.inside(first), known)


def _tied(measured: Measured | None, ties: Ties) -> Measured | None:
    """Returns what was measured, with the derivatives by the coordinates of a stage."""
    if measured is None or measured.gradients is None:
        return measured
    return measured._replace(
        gradients={
            dataset: {name: sum(slopes[each] for each in tied) for name, tied in ties.items()}
            for dataset, slopes in measured.gradients.items()
        }
    )


def openings(
    coordinates: Mapping[str, Mapping[str, str]], order: Sequence[str]
) -> list[dict[str, tuple[str, ...]]]:
    """Returns the stages that open groups one after another; the last one ties nothing.

    >>> openings({"a": {"early": "a1", "late": "a2"}, "b": {"late": "b2"}}, ["late", "early"])
    [{'a': ('a1', 'a2'), 'b2': ('b2',)}, {'a2': ('a2',), 'a1': ('a1',), 'b2': ('b2',)}]

    Args:
        coordinates: vector -> group -> the coordinate of the whole space.
        order: the groups, the one that is opened first at the beginning.
    """
    stages = []
    # The group that is left when all others are open is alone, so it needs no stage.
    for count in range(len(order)):
        opened = order[:count]
        ties: dict[str, tuple[str, ...]] = {}
        for vector, by_group in coordinates.items():
            ties |= {name: (name,) for group, name in by_group.items() if group in opened}
            closed = tuple(name for group, name in by_group.items() if group not in opened)
            if closed:
                ties[vector if len(closed) > 1 else closed[0]] = closed
        stages.append(ties)
    return stages
