"""Gradient search: a quasi-Newton method in a box, from one loss and gradient per point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from evaluation.search.contract import Point, Searcher, Space, Step, Trial
from evaluation.search.limits import lowest
from evaluation.search.objective import Objective

RADIUS, SMALLEST, LARGEST = 0.3, 0.01, 1.0
"""First, smallest and largest size of a step in each ω."""

Floats = NDArray[np.float64]


class GradientSearch(Searcher):
    """Minimises a local quadratic model of the score, whose curvature it learns on the way.

    The curvature is updated by the formula of Broyden, Fletcher, Goldfarb and Shanno with Powell's
    damping (Nocedal and Wright, Numerical Optimization, 2006, procedure 18.2). A step that lowers
    the score is taken; one that gains less than a quarter of what the model expects halves the
    trust region (their algorithm 4.1). It ends when the region is below SMALLEST.

    Args:
        space: the box to search.
        objective: of the losses; lower is better.
        start: the first point.
        at_once: see Searcher. The best of so many steps is taken; the curvature follows from all.
    """

    GRADIENTS = True

    def __init__(
        self, space: Space, objective: Objective, start: Mapping[str, float], at_once: int = 1
    ) -> None:
        super().__init__(space, at_once)
        self._objective, self._start = objective, space.inside(start)

    def _points(self) -> Iterator[Step]:
        names = self.space.names
        yield self._start
        here = self.trials[-1]
        if here.score == np.inf:
            return
        gradient, radius = self._gradient(here), RADIUS
        # On the scale of the first step: along the gradient to the edge of the trust region.
        curvature = np.eye(len(names)) * max(np.abs(gradient).max(), 1e-6) / radius
        while radius >= SMALLEST:
            at = self._values(here.point)
            point = self.space.named(at + self._step(at, gradient, curvature, radius))
            step = self._values(point) - at
            if _expected(step, gradient, curvature) <= 0 or self.score_of(point) is not None:
                radius /= 2
                continue
            before = len(self.trials)
            yield [point, *self._others(at, step)]
            tried = [(trial, self._values(trial.point) - at) for trial in self.trials[before:]]
            done = [(trial, step) for trial, step in tried if trial.score < np.inf]
            if not done:
                radius = min(_length(step) for _, step in tried) / 2
                continue
            there, step = min(done, key=lambda each: each[0].score)
            gained, expected = here.score - there.score, _expected(step, gradient, curvature)
            # The shortest step comes last, because the curvature near the best point counts most.
            for trial, moved in sorted(done, key=lambda each: -_length(each[1])):
                curvature = _damped(curvature, moved, self._gradient(trial) - gradient)
            if gained < 0.25 * expected:
                radius = _length(step) / 2
            elif gained > 0.75 * expected and _length(step) > 0.99 * radius:
                radius = min(2 * radius, LARGEST)
            if gained > 0:
                here, gradient = there, self._gradient(there)

    def _others(self, at: Floats, step: Floats) -> list[Point]:
        """Returns where other steps lead, `at_once` − 1 or fewer.

        They are twice the step, the step without one coordinate each, and half the step. Steps of
        different sizes alone would tell the curvature in one direction only.
        """
        widest_first = np.argsort(-np.abs(step), kind="stable")
        without = [np.where(np.arange(len(step)) == place, 0.0, step) for place in widest_first]
        found = [self.space.named(at + step)]
        for other in (2 * step, *without, step / 2):
            point = self.space.named(at + other)
            if len(found) < self.at_once and point not in found and self.score_of(point) is None:
                found.append(point)
        return found[1:]

    def _values(self, point: Point) -> Floats:
        return np.array([point[name] for name in self.space.names])

    def _gradient(self, trial: Trial) -> Floats:
        """Returns the derivatives of the score with respect to each ω."""
        assert trial.measured is not None and trial.measured.gradients is not None
        total = np.zeros(len(self.space.names))
        for dataset, by in self._objective.slope(trial.measured.losses).items():
            slopes = trial.measured.gradients[dataset]
            total += by * np.array([slopes[name] for name in self.space.names])
        return total

    def _step(self, at: Floats, gradient: Floats, curvature: Floats, radius: float) -> Floats:
        """Returns the minimum of the quadratic model in the box and the trust region."""
        low, high = self.space.box.T
        bounds = np.stack([np.maximum(low, at - radius), np.minimum(high, at + radius)], axis=1)

        def model(there: Floats) -> tuple[float, Floats]:
            bent = curvature @ (there - at)
            return float((gradient + 0.5 * bent) @ (there - at)), gradient + bent

        return lowest(model, at, bounds, self.space.names, self.space.limits)[0] - at


def _expected(step: Floats, gradient: Floats, curvature: Floats) -> float:
    """Returns by how much the quadratic model is lower after a step."""
    return -float(gradient @ step + 0.5 * step @ curvature @ step)


def _length(step: Floats) -> float:
    return float(np.abs(step).max())


def _damped(curvature: Floats, step: Floats, change: Floats) -> Floats:
    """Returns the curvature after a step that changed the gradient so; it stays positive."""
    bent = curvature @ step
    along = float(step @ bent)
    if along <= 0:
        return curvature
    product = float(step @ change)
    share = 1.0 if product >= 0.2 * along else 0.8 * along / (along - product)
    mixed = share * change + (1 - share) * bent
    return curvature - np.outer(bent, bent) / along + np.outer(mixed, mixed) / float(step @ mixed)
