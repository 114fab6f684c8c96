"""DOGE's weights of domains: more of those whose gradient points where the targets' point.

Per step, with gradients g_i of the training domains and h_j of the target domains, each clipped,
and learning rate η (arXiv 2310.15393, algorithm 1; the released code's version of it):

    s_i = η·Σ_j ⟨g_i, h_j⟩ / (mean_i ‖g_i‖ + 1e-6)         clipped to [η·low, η·high]
    α_i ← α_i·exp(s_i/μ)                                   normalise

Where the targets are the training domains, ⟨g_i, g_i⟩ is left out of the sum. The model is then
updated with Σ α_i g_i. The result is the mean of α over the steps.
"""

import numpy as np
from numpy.typing import ArrayLike

from influence.balance.doremi import smoothed, starting_weights
from influence.balance.resize import apportion
from influence.errors import InfluenceError


def doge_scores(
    products: ArrayLike,
    norms: ArrayLike,
    rate: float,
    *,
    own_targets: bool,
    low: float = 0.0,
    high: float = 5.0,
) -> np.ndarray:
    """Returns the scores s of one step: [n] float64.

    The rule needs only inner products, so gradients may stay where they are.

    Worked example: g = (3, 4), (0, 1) as training and target domains have products ((25, 4),
    (4, 1)) and norms (5, 1). At rate 0.1 both scores are 0.1·4/3 = 0.1333.

    Args:
        products: [n, targets] ⟨g_i, h_j⟩ of clipped gradients.
        norms: [n] ‖g_i‖ of the training domains.
        rate: the learning rate of this step, η.
        own_targets: the targets are the training domains in the same order, so that a domain's
            product with itself is left out. (The released code means this too, but compares two
            sets of tensors, which are never equal, and so always keeps it.)
        low: the least score, in units of the rate.
        high: the largest score, in units of the rate.

    Raises:
        InfluenceError: products and norms do not fit each other.
    """
    matrix, lengths = np.asarray(products, np.float64), np.asarray(norms, np.float64)
    if matrix.ndim != 2 or lengths.shape != matrix.shape[:1]:
        raise InfluenceError(
            f"the products have shape {matrix.shape} and the norms {lengths.shape}; expected "
            "[domains, targets] and [domains]. Give both for the same training domains."
        )
    if own_targets and matrix.shape[0] != matrix.shape[1]:
        raise InfluenceError(
            f"the products have shape {matrix.shape}; with own_targets they are square. "
            "Give own_targets=False, or the training domains as targets."
        )
    sums = matrix.sum(1) - (np.diag(matrix) if own_targets else 0)
    return np.asarray(np.clip(rate * sums / (lengths.mean() + 1e-6), rate * low, rate * high))


class Doge:
    """Weights of domains that follow the scores, step by step.

    Args:
        count: how many training domains there are; they start with equal weights.
        mu: μ, the strength of the pull back to the last weights; smaller moves faster. The released
            code's default is 0.05, its released configuration has 0.01.
        smoothing: ε; mixes in ε/n, as in DoReMi.

    Attributes:
        weights: [n] float64, the weights to update the model with; they sum to 1.
        average: [n] float64, the mean of the weights after each step, which is the result.
    """

    def __init__(self, count: int, *, mu: float = 0.05, smoothing: float = 0.0) -> None:
        self.weights = starting_weights([1.0] * count)
        self._mu, self._smoothing = mu, smoothing
        self.average = self.weights.copy()
        self._steps = 0

    def update(self, scores: ArrayLike) -> np.ndarray:
        """Takes one step with the scores of `doge_scores`, and returns the new weights."""
        step = np.asarray(scores, np.float64) / self._mu
        self.weights = smoothed(self.weights, step, self._smoothing)
        self._steps += 1
        self.average += (self.weights - self.average) / self._steps
        return self.weights

    def sizes(self, total: int) -> list[int]:
        """Returns `total` examples split by the averaged weights."""
        return apportion(self.average, total)
