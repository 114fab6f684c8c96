"""Search by CMA-ES (Hansen, arXiv 1604.00772), from the package cmaes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from evaluation.search.contract import Searcher, Space, Step

SPREAD = 0.2
"""The first standard deviation, as a share of the widest range."""


class CmaSearch(Searcher):
    """Samples from a normal distribution whose mean and covariance follow the better points.

    Args:
        space: the box to search, with two free coordinates or more.
        start: the mean of the first generation.
        seed: of the samples.

    Raises:
        ValueError: the space has fewer than two free coordinates.
    """

    def __init__(self, space: Space, start: Mapping[str, float], *, seed: int = 0) -> None:
        super().__init__(space)
        if len(space.free) < 2:
            raise ValueError(f"CMA-ES needs two free ω or more, got {len(space.free)}.")
        self._start, self._seed = space.inside(start), seed

    def _points(self) -> Iterator[Step]:
        from cmaes import CMA  # type: ignore[import-untyped]

        names = self.space.free
        box = np.array([self.space.bounds[name] for name in names])
        spread = SPREAD * float((box[:, 1] - box[:, 0]).max())
        mean = np.array([self._start[name] for name in names])
        sampler = CMA(mean, spread, bounds=box, seed=self._seed)
        yield self._start
        while not sampler.should_stop():
            sampled = [sampler.ask() for _ in range(sampler.population_size)]
            moved = [dict(zip(names, map(float, each), strict=True)) for each in sampled]
            points = [self.space.inside({**self._start, **each}) for each in moved]
            yield points
            generation = list(zip(sampled, map(self._told, points), strict=True))
            # The package wants finite values; a failed point is the worst of its generation.
            known = [score for _, score in generation if score < np.inf]
            worst = max(known, default=0.0) + 1.0
            sampler.tell([(x, score if score < np.inf else worst) for x, score in generation])
