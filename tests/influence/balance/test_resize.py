"""New sizes of domains, and which examples they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence.balance.resize import apportion, resized, sizes_of
from influence.errors import InfluenceError


def test_largest_remainders_by_hand():
    # Due are 4.5, 2.7 and 1.8: 4 + 2 + 1, and the two left go to .8 and .7.
    assert apportion([0.5, 0.3, 0.2], 9) == [4, 3, 2]
    assert apportion([1, 1, 1], 10) == [4, 3, 3]
    assert apportion([0.1] * 10, 30) == [3] * 10  # 0.1·30 rounds to 3.0000000000000004
    assert apportion([0, 3], 5) == [0, 5]


@given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=9), st.integers(0, 10**6))
def test_the_parts_sum_to_the_total_and_are_within_one_of_what_is_due(shares, total):
    parts = apportion(shares, total)
    assert sum(parts) == total
    for part, share in zip(parts, shares, strict=True):
        assert abs(part - share / sum(shares) * total) < 1 + 1e-6


@given(st.integers(1, 50), st.integers(0, 400), st.integers(0, 9))
def test_no_example_is_used_twice_more_than_another(count, size, seed):
    drawn = resized(count, size, seed)
    used = [drawn.count(number) for number in range(count)]
    assert sum(used) == len(drawn) == size
    assert max(used) - min(used) <= 1
    assert drawn == resized(count, size, seed)


def test_the_same_size_changes_nothing_and_sizes_nest():
    assert resized(7, 7, seed=3) == list(range(7))
    smaller, larger = resized(101, 40, seed=1), resized(101, 60, seed=1)
    assert set(smaller) < set(larger)
    assert resized(101, 40, seed=2) != smaller


def test_beyond_twice_the_size():
    drawn = resized(3, 10, seed=0)
    assert drawn[:9] == [0, 1, 2] * 3
    assert drawn[9] in range(3)


def test_what_cannot_be_resized_is_told():
    assert resized(0, 0, seed=0) == []
    with pytest.raises(InfluenceError, match="5 examples are wanted of a domain with 0"):
        resized(0, 5, seed=0)
    with pytest.raises(InfluenceError, match="the shares are \\[1.0, -1.0\\]"):
        apportion([1, -1], 5)
    with pytest.raises(InfluenceError, match="one of them above 0"):
        apportion([0, 0], 5)
    with pytest.raises(InfluenceError, match="total is -1"):
        apportion([1], -1)
    with pytest.raises(InfluenceError, match="Leave empty domains out"):
        sizes_of([3, 0])
