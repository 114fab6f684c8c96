"""Search for the trade-offs between datasets by NSGA-II (Deb et al., 2002), from optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evaluation.search.contract import Space, Trial
from evaluation.search.optuna_search import OptunaSearch

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class NsgaSearch(OptunaSearch):
    """Minimises the losses of all datasets at once.

    Args:
        space, start, known, seed: see OptunaSearch.
        datasets: whose losses are minimised.
        population: points of one generation.
    """

    def __init__(
        self,
        space: Space,
        start: Mapping[str, float],
        datasets: Sequence[str],
        *,
        known: Sequence[Trial] = (),
        seed: int = 0,
        population: int = 16,
    ) -> None:
        # All points of a generation descend from the one before it.
        super().__init__(space, start, known=known, seed=seed, at_once=population)
        self._datasets, self._population = tuple(datasets), population

    @property
    def front(self) -> list[Trial]:
        """The trials that no other one beats on every dataset, in the order of their measuring."""
        done = [(trial, self._values(trial)) for trial in self.trials if trial.measured is not None]
        return [
            trial
            for trial, values in done
            if not any(_dominates(other, values) for _, other in done)
        ]

    def _sampler(self) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(population_size=self._population, seed=self._seed)

    def _directions(self) -> int:
        return len(self._datasets)

    def _values(self, trial: Trial) -> list[float]:
        assert trial.measured is not None
        return [trial.measured.losses[name] for name in self._datasets]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the first losses are at most the other ones, and lower somewhere."""
    both = list(zip(one, other, strict=True))
    return all(a <= b for a, b in both) and any(a < b for a, b in both)
