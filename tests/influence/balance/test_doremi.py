"""DoReMi's update, with its numbers written out."""

from math import log

import numpy as np
import pytest

from influence.balance.doremi import DoReMi, excess_losses
from influence.errors import InfluenceError


def test_excess_losses_by_hand():
    # Domain 0: max(0, 3 − 1) = 2 and max(0, 1 − 2) = 0, mean 1. Domain 2: 1. Domain 1 is absent.
    excess = excess_losses([3, 1, 2], [1, 2, 1], [0, 0, 2], 3)
    np.testing.assert_array_equal(excess, [1, np.nan, 1])


def test_two_steps_by_hand():
    mixture = DoReMi([3, 3], smoothing=0)
    # (1/2·2, 1/2·1) = (1, 1/2), normalised (2/3, 1/3)
    assert mixture.update([log(2), 0]) == pytest.approx([2 / 3, 1 / 3])
    # Domain 0 is absent and its log 2 counts again: (4/3, 4/3), normalised (1/2, 1/2)
    assert mixture.update([np.nan, log(4)]) == pytest.approx([1 / 2, 1 / 2])
    # The start counts too: (1/2 + 2/3 + 1/2) / 3
    assert mixture.average == pytest.approx([5 / 9, 4 / 9])
    assert mixture.sizes(90) == [50, 40]


def test_smoothing_and_rate_by_hand():
    # η = 1/2 makes log 4 a factor of 2: (2/3, 1/3); 0.7·2/3 + 0.3/2
    mixture = DoReMi([1, 1], eta=0.5, smoothing=0.3)
    assert mixture.update([log(4), 0]) == pytest.approx([0.7 * 2 / 3 + 0.15, 0.7 / 3 + 0.15])


def test_an_excess_below_zero_counts_as_zero():
    assert DoReMi([1, 3], smoothing=0).update([-5, 0]) == pytest.approx([0.25, 0.75])


def test_domains_not_seen_yet_count_with_the_first_value():
    mixture = DoReMi([1, 1], first=log(3), smoothing=0)
    assert mixture.update([np.nan, 0]) == pytest.approx([0.75, 0.25])


def test_a_long_run_stays_finite_and_above_the_floor():
    mixture = DoReMi([1, 1, 1], smoothing=1e-4)
    for _ in range(2000):
        mixture.update([9, 0, 0])
    assert mixture.weights.sum() == pytest.approx(1)
    assert mixture.weights.min() >= 1e-4 / 3


def test_a_weight_of_zero_is_refused():
    with pytest.raises(InfluenceError, match="could never grow: leave the domain out"):
        DoReMi([0, 1])
