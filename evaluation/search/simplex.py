"""Simplex search: ω that sum to a constant, as interpolation (DEM, equation 3) needs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

from evaluation.search.contract import Point, Searcher, Space, Step


class SimplexSearch(Searcher):
    """Tries every ω on a lattice with ωᵢ ≥ 0 and Σ ωᵢ = total that lies in the space.

    With s steps and n coordinates there are C(s + n − 1, n − 1) points:

    >>> search = SimplexSearch(Space({"a": (0, 1), "b": (0, 1)}), steps=2)
    >>> search.free(9)
    [{'a': 0.0, 'b': 1.0}, {'a': 0.5, 'b': 0.5}, {'a': 1.0, 'b': 0.0}]

    Args:
        space: the box to search.
        steps: every ω is a multiple of total / steps.
        total: the sum of all ω.

    Raises:
        ValueError: there is no step, or no point of the lattice lies in the space.
    """

    def __init__(self, space: Space, steps: int = 5, total: float = 1.0) -> None:
        super().__init__(space)
        if steps < 1:
            raise ValueError(f"a lattice needs at least 1 step, got {steps}.")
        self._steps, self._total = steps, total
        if next(self._lattice(), None) is None:
            raise ValueError(
                f"no ω between {space.bounds} sum to {total:g} in {steps} steps. "
                "Give wider bounds or more steps."
            )

    def _points(self) -> Iterator[Step]:
        yield self._lattice()

    def _lattice(self) -> Iterator[Point]:
        n = len(self.space.names)
        # Each choice of n − 1 bars among steps + n − 1 places cuts the steps into n parts.
        for bars in combinations(range(self._steps + n - 1), n - 1):
            edges = (-1, *bars, self._steps + n - 1)
            parts = [end - start - 1 for start, end in pairwise(edges)]
            values = [part * self._total / self._steps for part in parts]
            point = self.space.named(values)
            # A bound would move the point off the lattice.
            if all(
                abs(point[name] - value) < 1e-3 for name, value in zip(point, values, strict=True)
            ):
                yield point
