"""Grid search: every combination of some values of each ω, as the code of the DEM paper does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from evaluation.search.contract import DIGITS, Searcher, Space, Step


class GridSearch(Searcher):
    """Tries every allowed point of a Cartesian grid, the first coordinate slowest.

    Args:
        space: the box to search.
        levels: how many values each free coordinate has, from its lowest to its highest; n
            coordinates have levels**n points.

    Raises:
        ValueError: there are fewer than two levels.
    """

    def __init__(self, space: Space, levels: int = 6) -> None:
        super().__init__(space)
        if levels < 2:
            raise ValueError(f"a grid needs at least 2 levels, got {levels}.")
        self._levels = levels

    def __len__(self) -> int:
        """The number of points, with those that limits forbid."""
        return int(self._levels ** len(self.space.free))

    def _points(self) -> Iterator[Step]:
        values = [
            np.linspace(low, high, self._levels).round(DIGITS) if low < high else [low]
            for low, high in self.space.bounds.values()
        ]
        points = (dict(zip(self.space.names, each, strict=True)) for each in product(*values))
        # Made one by one: a grid may have more points than memory holds. A point beyond a limit
        # would be moved off the grid.
        yield (self.space.inside(point) for point in points if self.space.allows(point))
