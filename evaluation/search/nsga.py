"""Search for the trade-offs between datasets by NSGA-II (Deb et al., 2002), from optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evaluation.search.contract import Space, Trial
from evaluation.search.optuna_search import OptunaSearch

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class NsgaSearch(OptunaSearch):
    """Minimises the losses of all datasets at once; see evaluation.search.front for its result.

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
        super().__init__(space, start, datasets, known=known, seed=seed, at_once=population)
        self._population = population

    def _sampler(self) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(population_size=self._population, seed=self._seed)
