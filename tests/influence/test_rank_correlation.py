"""Spearman's correlation: by hand, with ties, and where it does not exist."""

import math

import pytest

from influence.rank_correlation import rank_correlation


def test_a_worked_example() -> None:
    """The ranks differ by 0, 1, −1, 0: 1 − 6 · 2 / (4 · (16 − 1)) = 0.8."""
    assert rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)


def test_equal_numbers_share_a_rank() -> None:
    """Ranks 1, 2.5, 2.5 and 1, 2, 3: Σxy = 1.5, norms √1.5 and √2, so √3/2."""
    assert rank_correlation([5, 7, 7], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


def test_only_the_order_counts() -> None:
    values = [0.3, -2.0, 5.0, 1.1]
    assert rank_correlation(values, [math.exp(value) for value in values]) == pytest.approx(1)
    assert rank_correlation(values, [-value for value in values]) == pytest.approx(-1)


def test_it_is_nan_without_an_order() -> None:
    assert math.isnan(rank_correlation([1.0], [2.0]))
    assert math.isnan(rank_correlation([1, 2, 3], [4, 4, 4]))
