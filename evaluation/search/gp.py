"""Search by a Gaussian process of the score with expected improvement, from optuna.

Unlike the surrogate search it knows only scores: no single losses, and no derivatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation.search.optuna_search import OptunaSearch

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class GpSearch(OptunaSearch):
    """Samples where the process expects most to gain."""

    def _sampler(self) -> BaseSampler:
        from optuna.samplers import GPSampler

        # The same composition has the same losses on the same examples.
        return GPSampler(seed=self._seed, deterministic_objective=True)
