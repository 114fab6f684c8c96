"""Search by the tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), from optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation.search.optuna_search import OptunaSearch

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class TpeSearch(OptunaSearch):
    """Samples where the better trials lie densely; OptiMer (arXiv 2603.28858) searches ω so."""

    def _sampler(self) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(seed=self._seed, multivariate=True)
