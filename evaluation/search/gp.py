"""Search by Gaussian processes with expected improvement, from optuna.

One process describes the score. With several aims there is one for each dataset's loss, and what
is expected to improve is the volume that the front dominates. Derivatives are not used.
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
