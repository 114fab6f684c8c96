"""Greedy search: adds one vector at a time and keeps the ω of those that are in already.

The DEM paper shows such steps in its table 5 ("incremental learning").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evaluation.search.contract import DIGITS, Point, Searcher, Space, Step


class GreedySearch(Searcher):
    """Starts at the lowest absolute ω, and gives one coordinate after another its best value.

    A coordinate whose values all make the score worse stays where it started.

    Args:
        space: the box to search.
        levels: how many values of each coordinate are tried, from its lowest to its highest.
        order: the coordinates in the order in which they are added. If not given, each round tries
            all that are left and adds the best: at most levels · n (n + 1) / 2 points, against
            levels · n.

    Raises:
        ValueError: there are fewer than two levels, or the order names an unknown coordinate.
    """

    def __init__(self, space: Space, levels: int = 5, order: Sequence[str] | None = None) -> None:
        super().__init__(space)
        if levels < 2:
            raise ValueError(f"a greedy search needs at least 2 levels, got {levels}.")
        if unknown := set(order or ()) - set(space.names):
            raise ValueError(f"the order names {sorted(unknown)[0]!r}, which is no coordinate.")
        self._levels, self._order = levels, order
        self.added: list[Point] = []
        """The best point after each coordinate that was added."""

    def _points(self) -> Iterator[Step]:
        best = self.space.inside(dict.fromkeys(self.space.names, 0.0))
        yield best
        left = list(self.space.free if self._order is None else self._order)
        while left:
            tried = left if self._order is None else left[:1]
            moved = [{**best, name: value} for name in tried for value in self._values(name)]
            # One beyond a limit would move other coordinates too. The best itself is always there,
            # so something is left.
            candidates = [
                best,
                *(self.space.inside(each) for each in moved if self.space.allows(each)),
            ]
            yield candidates
            better = min(candidates, key=self._told)
            if self._told(better) < self._told(best):
                changed = [name for name in tried if better[name] != best[name]]
                best = better
                self.added.append(best)
                left.remove(changed[0])
            elif self._order is None:
                return  # no coordinate that is left helps
            else:
                left.pop(0)

    def _values(self, name: str) -> list[float]:
        low, high = self.space.bounds[name]
        return [float(value) for value in np.linspace(low, high, self._levels).round(DIGITS)]
