"""DoReMi's weights of domains: more of those on which a proxy model lags behind a reference.

Per step, with excess loss λ_j ≥ 0 of domain j, rate η and smoothing ε (arXiv 2305.10429, algorithm
1; the released code's version of it):

    α_j ← α_j·exp(η·λ_j)        normalise        α ← (1 − ε)·α + ε/n

The proxy trains on the α-weighted loss. The result is the mean of α over the steps, the weights
before the first step among them.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from influence.balance.resize import apportion
from influence.errors import InfluenceError


def excess_losses(
    proxy: ArrayLike, reference: ArrayLike, domains: ArrayLike, count: int
) -> np.ndarray:
    """Returns each domain's excess loss in a batch: the mean over its tokens of max(0, p − r).

    Worked example: proxy losses (3, 1, 2), reference losses (1, 2, 1) and domains (0, 0, 2) of 3
    give (1, NaN, 1): the second token is better than the reference and counts as 0.

    Args:
        proxy: [tokens] loss of each supervised token under the proxy model, in nats.
        reference: [tokens] the same under the reference model.
        domains: [tokens] number of the domain that each token is from.
        count: how many domains there are.

    Returns:
        [count] float64; NaN for a domain without tokens in the batch.
    """
    excess = np.maximum(np.asarray(proxy, np.float64) - np.asarray(reference, np.float64), 0)
    numbers = np.asarray(domains, np.int64)
    tokens = np.bincount(numbers, minlength=count)
    sums = np.bincount(numbers, excess, minlength=count)
    return np.asarray(np.divide(sums, tokens, out=np.full(count, math.nan), where=tokens > 0))


class DoReMi:
    """Weights of domains that follow the excess losses, step by step.

    Args:
        weights: [n] the weights to start from, such as the domains' shares.
        eta: the rate η.
        smoothing: ε; keeps each weight above ε/n.
        first: [n] excess losses of domains that no step has seen yet, in nats. The released code
            takes log(vocabulary); 0 leaves such a domain where it is.

    Attributes:
        weights: [n] float64, the weights to train the next step with; they sum to 1.
        average: [n] float64, the mean of the weights so far, which is the result.
    """

    def __init__(
        self,
        weights: Sequence[float],
        *,
        eta: float = 1.0,
        smoothing: float = 1e-4,
        first: float = 0.0,
    ) -> None:
        self.weights = starting_weights(weights)
        self.average = self.weights.copy()
        self._eta, self._smoothing = eta, smoothing
        self._excess = np.full(len(self.weights), float(first))
        self._steps = 1

    def update(self, excess: ArrayLike) -> np.ndarray:
        """Takes one step, and returns the new weights.

        Args:
            excess: [n] what `excess_losses` returns. A NaN stands for a domain that the batch did
                not have; its last value counts again.
        """
        given = np.asarray(excess, np.float64)
        self._excess = np.where(np.isnan(given), self._excess, np.maximum(given, 0))
        self.weights = smoothed(self.weights, self._eta * self._excess, self._smoothing)
        self._steps += 1
        self.average += (self.weights - self.average) / self._steps
        return self.weights

    def sizes(self, total: int) -> list[int]:
        """Returns `total` examples split by the averaged weights."""
        return apportion(self.average, total)


def starting_weights(weights: Sequence[float]) -> np.ndarray:
    """Returns weights of domains as [n] float64 that sum to 1.

    Raises:
        InfluenceError: a weight is no finite number above 0; an update could not leave 0.
    """
    given = np.asarray(weights, np.float64)
    if given.ndim != 1 or not given.size or not np.isfinite(given).all() or not (given > 0).all():
        raise InfluenceError(
            f"the weights of the domains are {list(weights)}; expected a finite number above 0 for "
            "each. A weight of 0 could never grow: leave the domain out."
        )
    return np.asarray(given / given.sum())


def smoothed(weights: np.ndarray, scores: np.ndarray, smoothing: float) -> np.ndarray:
    """Returns (1 − ε)·softmax(log w + s) + ε/n, one step of exponentiated gradient."""
    logs = np.log(weights) + scores
    new = np.exp(logs - logs.max())
    return np.asarray((1 - smoothing) * new / new.sum() + smoothing / len(new))
