"""Surrogate search: measures where a model of the losses, fitted to all trials, expects the best.

Each dataset's loss has its own surrogate (evaluation.landscape.loss_surrogate). The objective is
computed from the losses that they expect, so it may be any function of them, such as the worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.landscape.loss_surrogate import Surrogate, one_thread
from evaluation.search.contract import Measured, Point, Searcher, Space, Step, Trial
from evaluation.search.limits import lowest
from evaluation.search.objective import Objective

RADIUS = 0.3
"""The next point is at most this far from the best one in each ω. The surrogates are fitted mostly
to points nearby, and on the demo they were wrong by half of the range farther away."""

NEAR = 2e-3
"""A point that is nearer to a measured one in each ω would tell nothing new."""

STARTS = 4
"""Random starts of the minimisation on the surrogates, beside the best trial."""


class SurrogateSearch(Searcher):
    """Fits, minimises, measures, and fits again.

    It ends when `patience` points in a row were no better and the expected gain is below `enough`.

    Args:
        space: the box to search.
        objective: of the losses; lower is better.
        start: the first point.
        known: trials that were measured before; they take part in the fits, and are not asked for.
        seed: of the random starts and of the steps that replace a point that is known already.
        enough: an expected gain in score below this is none.
        patience: see above.
    """

    GRADIENTS = True
    SIDE_BY_SIDE = True

    def __init__(
        self,
        space: Space,
        objective: Objective,
        start: Mapping[str, float],
        *,
        known: Sequence[Trial] = (),
        seed: int = 0,
        enough: float = 1e-5,
        patience: int = 3,
    ) -> None:
        super().__init__(space)
        self._objective, self._start = objective, space.inside(start)
        self._known = [trial for trial in known if trial.measured is not None]
        self._chance = np.random.default_rng(seed)
        self._enough, self._patience = enough, patience

    def surrogates(self) -> dict[str, Surrogate]:
        """Returns a surrogate for each dataset, fitted to all trials that did not fail."""
        return fit(self.space.names, self._usable())

    def _points(self) -> Iterator[Step]:
        # With derivatives, what others measured there tells as much.
        if not any(trial.point == self._start and trial.has_gradients for trial in self._known):
            yield self._start
        n, idle = len(self.space.free), 0
        # Without derivatives one point tells nothing of the directions.
        if not self._has_gradients():
            design = [self._beside(name) for name in self.space.free]
            yield [point for point in design if not self._is_known(point)]
        while n and idle < self._patience:
            # What was known before may lie outside the box.
            inside = [
                each for each in self._usable() if self.space.inside(each.point) == each.point
            ]
            best = min(inside, key=lambda trial: trial.score, default=None)
            if best is None:
                # Every measurement failed so far: somewhere else one may succeed.
                low, high = self.space.box.T
                yield self.space.named(self._chance.uniform(low, high))
                continue
            point, expected = self._lowest(best)
            gain = best.score - expected
            if self._is_known(point):
                point, gain = self._nearby(best.point), 0.0
            yield point
            gained = best.score - self._told(point)
            idle = idle + 1 if gained < self._enough and gain < self._enough else 0

    def _beside(self, name: str) -> Point:
        """Returns the start with one coordinate moved by RADIUS."""
        up = self._start[name] + RADIUS <= self.space.bounds[name][1]
        step = RADIUS if up else -RADIUS
        return self.space.inside({**self._start, name: self._start[name] + step})

    def _usable(self) -> list[Trial]:
        return [trial for trial in (*self._known, *self.trials) if trial.score < np.inf]

    def _has_gradients(self) -> bool:
        return any(trial.has_gradients for trial in self._usable())

    def _lowest(self, best: Trial) -> tuple[Point, float]:
        """Returns the point near the best trial where the lowest score is expected, and that."""
        models = self.surrogates()
        names = self.space.names
        centre = np.array([best.point[name] for name in names])
        low, high = self.space.box.T
        bounds = np.stack([np.maximum(low, centre - RADIUS), np.minimum(high, centre + RADIUS)], 1)

        def expected(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            each = {dataset: model.at(values) for dataset, model in models.items()}
            losses = {dataset: loss for dataset, (loss, _) in each.items()}
            terms = [by * each[k][1] for k, by in self._objective.slope(losses).items()]
            return self._objective.score(losses), np.sum(terms, axis=0)

        starts = [centre, *self._chance.uniform(bounds[:, 0], bounds[:, 1], (STARTS, len(names)))]
        with one_thread():
            found = [lowest(expected, start, bounds, names, self.space.limits) for start in starts]
        values, score = min(found, key=lambda each: each[1])
        return self.space.named(values), score

    def _is_known(self, point: Point) -> bool:
        return any(
            all(abs(point[name] - trial.point[name]) < NEAR for name in point)
            for trial in (*self._known, *self.trials)
        )

    def _nearby(self, best: Point) -> Point:
        """Returns a random point near the best one, that was not measured."""
        while True:
            moved = {name: best[name] + self._chance.uniform(-0.1, 0.1) for name in best}
            point = self.space.inside(moved)
            if self.score_of(point) is None and not self._is_known(point):
                return point


def fit(names: Sequence[str], trials: Sequence[Trial]) -> dict[str, Surrogate]:
    """Returns a surrogate of the loss on each dataset.

    Args:
        names: the coordinates, in the order of the surrogates' points.
        trials: at least one with what was measured; those without are left out.
    """
    told = [(trial.point, trial.measured) for trial in trials if trial.measured is not None]
    points = np.array([[point[name] for name in names] for point, _ in told])
    datasets = [name for name in told[0][1].losses if all(name in got.losses for _, got in told)]
    return {
        dataset: Surrogate(
            points,
            np.array([got.losses[dataset] for _, got in told]),
            np.array([_slopes(got, dataset, names) for _, got in told]),
        )
        for dataset in datasets
    }


def _slopes(measured: Measured, dataset: str, names: Sequence[str]) -> list[float]:
    known = (measured.gradients or {}).get(dataset, {})
    return [known.get(name, np.nan) for name in names]
