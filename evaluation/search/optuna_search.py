"""Searches by the samplers of optuna, behind the interface of the other searchers."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from evaluation.search.contract import Searcher, Space, Step, Trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

REPEATS = 100
"""So many points in a row that were told already end a search: nothing new is left to sample."""


class OptunaSearch(Searcher):
    """A search whose points a sampler of optuna proposes.

    The study is in memory: a search that is run again gets the same points, because the sampler
    has a seed and is told the same values.

    Args:
        space: the box to search.
        start: the first point.
        datasets: whose losses are minimised, each for itself; () to minimise the score.
        known: trials that were measured before; the sampler learns from them.
        seed: of the sampler.
        at_once: see Searcher.
    """

    def __init__(
        self,
        space: Space,
        start: Mapping[str, float],
        datasets: Sequence[str] = (),
        *,
        known: Sequence[Trial] = (),
        seed: int = 0,
        at_once: int = 1,
    ) -> None:
        super().__init__(space, at_once)
        self._start, self._known, self._seed = space.inside(start), known, seed
        self._datasets = tuple(datasets)

    @abstractmethod
    def _sampler(self) -> BaseSampler:
        """Returns the sampler."""

    def _values(self, trial: Trial) -> list[float]:
        """Returns what is minimised of a trial that did not fail."""
        if not self._datasets:
            return [trial.score]
        assert trial.measured is not None
        return [trial.measured.losses[name] for name in self._datasets]

    def _points(self) -> Iterator[Step]:
        import optuna
        from optuna.distributions import BaseDistribution, FloatDistribution

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        box: dict[str, BaseDistribution] = {
            name: FloatDistribution(*self.space.bounds[name]) for name in self.space.free
        }
        with warnings.catch_warnings():
            # It warns that an option may change between versions; the version is pinned.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                directions=["minimize"] * max(1, len(self._datasets)), sampler=self._sampler()
            )
        for trial in self._known:
            if trial.score < np.inf and self.space.inside(trial.point) == trial.point:
                study.add_trial(
                    optuna.trial.create_trial(
                        params={name: trial.point[name] for name in box},
                        distributions=box,
                        values=self._values(trial),
                    )
                )
        study.enqueue_trial({name: self._start[name] for name in box})
        repeated = 0
        while repeated < REPEATS:
            asked = [study.ask(box) for _ in range(self.at_once)]
            points = [self.space.inside({**self._start, **each.params}) for each in asked]
            new = any(self.score_of(point) is None for point in points)
            repeated = 0 if new else repeated + len(points)
            yield points
            for each, point in zip(asked, points, strict=True):
                told = next(trial for trial in reversed(self.trials) if trial.point == point)
                if told.score < np.inf:
                    study.tell(each, self._values(told))
                else:
                    study.tell(each, state=optuna.trial.TrialState.FAIL)
