"""Surrogate search: measures where a model of the losses, fitted to all trials, expects the best.

Each dataset's loss has its own surrogate (evaluation.landscape.loss_surrogate). The objective is
computed from the losses that they expect, so it may be any function of them, such as the worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from evaluation.landscape.loss_surrogate import Surrogate
from evaluation.search.contract import Measured, Point, Searcher, Space, Step, Trial
from evaluation.search.limits import lowest
from evaluation.search.objective import Objective
from merging.one_thread import one_thread

RADIUS = 0.3
"""The next point is at most this far from the best one in each ω. The surrogates are fitted mostly
to points nearby, and on the demo they were wrong by half of the range farther away."""

SHORT = RADIUS / 2
"""The same while a surrogate is weak. A smaller region leaves more to what was measured at the best
point, its loss and its derivatives, and less to the model's shape farther away."""

NEAR = 2e-3
"""A point that is nearer to a measured one in each ω would tell nothing new."""

SIZES = (0.5, 2.0, 0.25, 4.0)
"""Further points of a step are the minima in regions of so many times the size."""

TRIES = 1000
"""Random points after which a space is taken to have no room for another one."""

STARTS = 4
"""Random starts of the minimisation on the surrogates, beside the best trial."""


class SurrogateSearch(Searcher):
    """Fits, minimises, measures, and fits again.

    It ends when `patience` steps in a row were no better and the expected gain is below `enough`.

    Args:
        space: the box to search.
        objective: of the losses; lower is better.
        start: the first point.
        known: trials that were measured before; they take part in the fits, and are not asked for.
        seed: of the random starts and of the steps that replace a point that is known already.
        enough: an expected gain in score below this is none.
        patience: see above.
        at_once: see Searcher.

    Attributes:
        weak: for each step so far, the datasets that count and whose surrogates were weak (see
            `Surrogate.is_weak`). With any, the step was a short one.
    """

    GRADIENTS = True

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
        at_once: int = 1,
    ) -> None:
        super().__init__(space, at_once)
        self._objective, self._start = objective, space.inside(start)
        self._known = [trial for trial in known if trial.measured is not None]
        self._chance = np.random.default_rng(seed)
        self._enough, self._patience = enough, patience
        self.weak: list[tuple[str, ...]] = []

    def surrogates(self) -> dict[str, Surrogate]:
        """Returns a surrogate for each dataset, fitted to all trials that did not fail."""
        return fit(self.space.names, self._usable())

    def _points(self) -> Iterator[Step]:
        design = [self._beside(name) for name in self.space.free]
        # With derivatives, what others measured there tells as much.
        if not any(trial.point == self._start and trial.has_gradients for trial in self._known):
            yield [self._start, *design[: self.at_once - 1]]
        n, idle = len(self.space.free), 0
        # Without derivatives one point tells nothing of the directions.
        if not self._has_gradients():
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
                yield [
                    self.space.named(self._chance.uniform(low, high)) for _ in range(self.at_once)
                ]
                continue
            models = self.surrogates()
            self.weak.append(self._weak(models))
            radius = SHORT if self.weak[-1] else RADIUS
            point, expected = self._lowest(models, best, radius)
            gain = best.score - expected
            if self._is_known(point):
                nearby = self._nearby(best.point)
                if nearby is None:
                    return  # the space has no room for another point
                point, gain = nearby, 0.0
            batch = [point, *self._others(models, best, radius, point)]
            yield batch
            gained = best.score - min(map(self._told, batch))
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

    def _weak(self, models: Mapping[str, Surrogate]) -> tuple[str, ...]:
        """Returns the datasets with a weak surrogate on which the score depended in any trial."""
        matter = {
            dataset
            for trial in self._usable()
            if trial.measured
            for dataset, by in self._objective.slope(trial.measured.losses).items()
            if by
        }
        return tuple(k for k, model in models.items() if k in matter and model.is_weak)

    def _lowest(
        self, models: Mapping[str, Surrogate], best: Trial, radius: float
    ) -> tuple[Point, float]:
        """Returns where the lowest score is expected, at most so far from the best, and that."""
        names = self.space.names
        centre = np.array([best.point[name] for name in names])
        low, high = self.space.box.T
        bounds = np.stack([np.maximum(low, centre - radius), np.minimum(high, centre + radius)], 1)

        def expected(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            each = {dataset: model.at(values) for dataset, model in models.items()}
            losses = {dataset: loss for dataset, (loss, _) in each.items()}
            terms = [by * each[k][1] for k, by in self._objective.slope(losses).items()]
            return self._objective.score(losses), np.sum(terms, axis=0)

        starts = [centre, *self._chance.uniform(bounds[:, 0], bounds[:, 1], (STARTS, len(names)))]
        with one_thread:
            found = [lowest(expected, start, bounds, names, self.space.limits) for start in starts]
        values, score = min(found, key=lambda each: each[1])
        return self.space.named(values), score

    def _others(
        self, models: Mapping[str, Surrogate], best: Trial, radius: float, first: Point
    ) -> list[Point]:
        """Returns further points of a step, `at_once` − 1 or fewer.

        They are the minima in smaller and larger regions: a model that is wrong far from the best
        point misleads the smaller ones less. Random points beside the first one follow where these
        are the same.
        """
        minima = (self._lowest(models, best, radius * size)[0] for size in SIZES)
        random = (self._moved(first) for _ in range(TRIES))
        tries, found = chain(minima, random), [first]
        while len(found) < self.at_once and (point := next(tries, None)):
            if not (self._is_known(point) or any(_near(point, other) for other in found)):
                found.append(point)
        return found[1:]

    def _is_known(self, point: Point) -> bool:
        return any(_near(point, trial.point) for trial in (*self._known, *self.trials))

    def _nearby(self, best: Point) -> Point | None:
        """Returns a random point near the best one that was not measured; None if none is found."""
        for _ in range(TRIES):
            point = self._moved(best)
            if self.score_of(point) is None and not self._is_known(point):
                return point
        return None

    def _moved(self, point: Point) -> Point:
        """Returns a random point near one."""
        moved = {name: point[name] + self._chance.uniform(-0.1, 0.1) for name in point}
        return self.space.inside(moved)


def _near(point: Point, other: Point) -> bool:
    return all(abs(point[name] - other[name]) < NEAR for name in point)


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
