"""What all searchers share: a space of named ω, trials, and the way to ask and to tell."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.search.limits import Limit

Point = dict[str, float]
"""Name of a coordinate -> its value."""

Step = Point | Iterable[Point]
"""What a searcher yields: one point, or several that need no answers of each other. It is not
resumed before all of them have a score."""

DIGITS = 4
"""Points are rounded to this many decimals, so that a point that is reached in two ways is
recognised and not measured twice."""


class Measured(NamedTuple):
    """What was measured of a point."""

    losses: Mapping[str, float]
    """Dataset -> its loss, in nats per token."""
    gradients: Mapping[str, Mapping[str, float]] | None = None
    """Dataset -> coordinate -> the derivative of its loss; None if they were not asked for."""


class Trial(NamedTuple):
    """A point with its score; lower is better."""

    point: Point
    score: float
    """Infinity if the measurement failed."""
    measured: Measured | None = None
    """None if the measurement failed, or the searcher needs scores only."""

    @property
    def has_gradients(self) -> bool:
        """Whether the derivatives of its losses were measured."""
        return self.measured is not None and self.measured.gradients is not None


@dataclass(frozen=True)
class Space:
    """The box that is searched, perhaps within limits.

    Attributes:
        bounds: name of a coordinate -> its lowest and its highest value. Equal ones freeze it.
        limits: on sums or norms of coordinates. The point of the box nearest to 0 must keep them.

    Raises:
        ValueError: there is no coordinate, a bound is no finite number or below the other one, or
            the point nearest to 0 breaks a limit.
    """

    bounds: Mapping[str, tuple[float, float]]
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ValueError(
                'a search needs at least one coordinate, for example {"cot": (0, 1)}; got none.'
            )
        for name, (low, high) in self.bounds.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"expected low <= high for {name}, got {low} and {high}.")
        for limit in self.limits:
            if not limit.allows(self._centre):
                raise ValueError(
                    f"no point is left: the lowest ω break the limit {limit.words()}. "
                    "Give a higher limit or lower bounds."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The coordinates."""
        return tuple(self.bounds)

    @property
    def free(self) -> tuple[str, ...]:
        """The coordinates that are not frozen."""
        return tuple(name for name, (low, high) in self.bounds.items() if low < high)

    @property
    def box(self) -> NDArray[np.float64]:
        """(coordinates, 2): lowest and highest values."""
        return np.array(list(self.bounds.values()), dtype=np.float64)

    def allows(self, point: Mapping[str, float]) -> bool:
        """Returns whether a point keeps all limits."""
        return all(limit.allows(point) for limit in self.limits)

    def inside(self, point: Mapping[str, float]) -> Point:
        """Returns a point moved into the box and the limits, rounded to DIGITS decimals.

        One that breaks a limit is moved straight towards the point nearest to 0 until it keeps it;
        coordinates without a limit stay.
        """
        moved = self._rounded(point)
        if self.allows(moved):
            return moved
        centre = self._centre
        limited = {name for limit in self.limits for name in limit.names}
        within, beyond = 0.0, 1.0
        # The limits are convex and the centre keeps them, so there is one crossing. Rounding may
        # step over it again, so the rounded points are compared.
        best = {**moved, **{name: centre[name] for name in limited}}
        while beyond - within > 10.0**-DIGITS:
            share = (within + beyond) / 2
            tried = self._rounded(
                {
                    name: centre[name] + share * (value - centre[name])
                    if name in limited
                    else value
                    for name, value in moved.items()
                }
            )
            if self.allows(tried):
                within, best = share, tried
            else:
                beyond = share
        return best

    def named(self, values: Sequence[float] | NDArray[np.float64]) -> Point:
        """Returns the point of some values in the order of the coordinates; see `inside`."""
        return self.inside(dict(zip(self.bounds, map(float, values), strict=True)))

    @property
    def _centre(self) -> Point:
        """The point of the box that is nearest to 0."""
        return self._rounded(dict.fromkeys(self.bounds, 0.0))

    def _rounded(self, point: Mapping[str, float]) -> Point:
        """Returns a point moved into the box and rounded."""
        # Adding 0.0 turns -0.0 into 0.0, which is the same point.
        return {
            name: round(min(max(float(point[name]), low), high), DIGITS) + 0.0
            for name, (low, high) in self.bounds.items()
        }


class Searcher(ABC):
    """Proposes points of a space, one after another, and learns what was measured there.

        while (point := searcher.ask()) is not None:
            searcher.tell(Trial(point, score))

    It knows nothing of models. The same arguments and the same answers give the same points, so a
    search that was interrupted is continued by running it again with what was measured already.

    Several workers may measure side by side. `free` gives more points without waiting for the
    pending ones, and `tell` takes their trials in any order. The searcher sees them in the order in
    which it asked, so its points do not depend on which worker was faster.

    Args:
        space: the box to search.
        at_once: how many points are proposed before their answers are needed, for the methods that
            learn from every answer. Other points are proposed for another number.

    Attributes:
        GRADIENTS: whether it learns from derivatives; `Trial.measured` should then have them.
        trials: everything that was told, in order.
    """

    GRADIENTS: bool = False

    def __init__(self, space: Space, at_once: int = 1) -> None:
        self.space, self.at_once = space, at_once
        self.trials: list[Trial] = []
        self._scores: dict[tuple[float, ...], float] = {}
        # A generator keeps its place between `ask` and `tell`. Made by the first `ask`, because the
        # searcher has its settings only after this.
        self._walk: Iterator[Step] | None = None
        self._batch: Iterator[Point] = iter(())
        # Points that were handed out and are not in `trials`, in the order of asking; a trial waits
        # here for those that were asked before it.
        self._pending: dict[tuple[float, ...], tuple[Point, Trial | None]] = {}

    def ask(self) -> Point | None:
        """Returns the first point that has no trial, never one told before; None at the end.

        Before it was told, the same point is returned again.
        """
        first = next((point for point, _ in self._pending.values()), None) or self._next()
        return None if first is None else dict(first)

    def free(self, count: int) -> list[Point]:
        """Returns up to `count` points that were not handed out and need no pending answer.

        The list is empty if the searcher needs answers first. If nothing is pending either, the
        search is at its end.
        """
        found: list[Point] = []
        while len(found) < count and (point := self._next()) is not None:
            found.append(dict(point))
        return found

    def tell(self, trial: Trial) -> None:
        """Records the trial of a point that `ask` or `free` has handed out.

        It enters `trials` as soon as all points that were handed out before it have theirs.

        Raises:
            ValueError: the point was not handed out, or has a trial already.
        """
        key = tuple(trial.point.values())
        if key not in self._pending or self._pending[key] != (trial.point, None):
            raise ValueError(
                "tell() takes a point that ask() or free() returned and that has no trial, first "
                f"{self.ask()}; got {trial.point}."
            )
        # NaN compares as neither lower nor higher, so a failed trial would stop the search.
        score = math.inf if math.isnan(trial.score) else trial.score
        self._pending[key] = trial.point, trial._replace(score=score)
        for first, (_, told) in list(self._pending.items()):
            if told is None:
                break
            self.trials.append(told)
            self._scores[first] = told.score
            del self._pending[first]

    def _next(self) -> Point | None:
        """Hands out one more point; None at the end, or if the searcher needs answers first."""
        while True:
            for point in self._batch:
                key = tuple(point.values())
                if key not in self._scores and key not in self._pending:
                    self._pending[key] = point, None
                    return point
            if self._pending:
                return None
            self._walk = self._walk or self._points()
            step = next(self._walk, None)
            if step is None:
                return None
            self._batch = iter((step,) if isinstance(step, dict) else step)

    @property
    def pending(self) -> int:
        """How many points were handed out and are not in `trials` yet."""
        return len(self._pending)

    @property
    def best(self) -> Trial | None:
        """The trial with the lowest score; None before the first one, or if all failed."""
        done = [trial for trial in self.trials if trial.score < math.inf]
        return min(done, key=lambda trial: trial.score, default=None)

    def score_of(self, point: Point) -> float | None:
        """Returns the score that was told for a point; None if there is none."""
        return self._scores.get(tuple(point.values()))

    def _told(self, point: Point) -> float:
        """Returns the score of a point that was asked for and told."""
        return self._scores[tuple(point.values())]

    @abstractmethod
    def _points(self) -> Iterator[Step]:
        """Yields points inside the space, or several at once; see Step.

        All have a score when it is resumed. Those that have one already are not asked for.
        """
