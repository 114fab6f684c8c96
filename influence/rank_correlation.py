"""Spearman's rank correlation: whether two methods put the same things in the same order."""

import math
from collections.abc import Sequence


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns Spearman's correlation of two lists of numbers; equal numbers share a rank.

    It is NaN for fewer than two pairs, or if the numbers of one list are all equal.

    >>> rank_correlation([1, 2, 3, 4], [10, 30, 20, 40])
    0.8

    Args:
        first: (n,) numbers.
        second: (n,) numbers, each of the same thing as in `first`.
    """
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    if len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(spearmanr(first, second).statistic)
