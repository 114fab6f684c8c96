"""Subsets: DMT's counts, nesting, and the same draw on every machine."""

from fractions import Fraction
from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import PROPORTIONS, CorpusError, nested, share_of, split

WHOLE = [9, 1, 3, 0, 6, 2, 10, 5, 8, 4, 7]

FRACTIONS = st.fractions(min_value=0, max_value=1, max_denominator=997)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (110142, [110142, 27535, 6883, 1720, 430]),
        (20022, [20022, 5005, 1251, 312, 78]),
        (86060, [86060, 21515, 5378, 1344, 336]),
    ],
)
def test_the_counts_of_dmt(count, expected):
    """GSM8K RFT, Code Alpaca and ShareGPT in arXiv 2310.05492."""
    drawn = [nested(count, share, seed=5) for share in PROPORTIONS]
    assert [len(part) for part in drawn] == expected
    for larger, smaller in pairwise(drawn):
        assert larger[: len(smaller)] == smaller
    assert sorted(drawn[0]) == list(range(count))


def test_worked_example_is_the_same_on_every_machine():
    assert nested(11, 1, seed=0) == WHOLE
    assert nested(11, "1/3", seed=0) == WHOLE[:3]
    assert nested(11, 1, seed=1) != WHOLE


@given(
    count=st.integers(0, 300),
    shares=st.tuples(FRACTIONS, FRACTIONS),
    seed=st.integers(0, 9),
    minimum=st.integers(0, 9),
)
@settings(deadline=None)
def test_a_smaller_share_is_the_beginning_of_a_larger_one(count, shares, seed, minimum):
    small, large = (nested(count, share, seed, minimum) for share in sorted(shares))
    assert large[: len(small)] == small
    assert len(set(large)) == len(large) == max(int(count * max(shares)), min(minimum, count))
    assert set(large) <= set(range(count))


def test_a_minimum_keeps_the_nesting_and_ends_at_what_there_is():
    assert [len(nested(100, share, 0, minimum=3)) for share in ("1/4", "1/64", 0)] == [25, 3, 3]
    assert nested(100, 0, 0, minimum=3) == nested(100, "1/4", 0)[:3]
    assert len(nested(2, 0, 0, minimum=3)) == 2
    assert nested(0, 1, 0, minimum=3) == nested(9, 0, 0) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1/256", Fraction(1, 256)), ("0.25", Fraction(1, 4)), (0.7, Fraction(7, 10)), (1, Fraction(1)), (0, Fraction(0)),
        ("1e-3", Fraction(1, 1000)), (1e-05, Fraction(1, 100000)), (Fraction(2, 3), Fraction(2, 3)),
    ],
)  # fmt: skip
def test_shares(value, expected):
    assert share_of(value) == expected


def test_a_decimal_share_is_what_is_written():
    """0.7 in binary is a little less than 7/10, and would lose one record of ten."""
    assert int(10 * Fraction(0.7)) == 6
    assert len(nested(10, 0.7, 0)) == 7


@pytest.mark.parametrize(
    "value", ["a quarter", "1/0", "", None, True, [1], float("nan"), float("inf"), "25 %"], ids=repr
)
def test_what_is_no_share_is_refused(value):
    with pytest.raises(CorpusError, match=r"is not a share\. Write a number from 0 to 1"):
        share_of(value)


@pytest.mark.parametrize("value", ["-1/4", -0.1, 1.5, "5/4", 2])
def test_a_share_outside_is_refused(value):
    with pytest.raises(CorpusError, match=r"outside 0 to 1"):
        share_of(value)


def test_negative_counts_are_refused():
    for count, minimum in ((-1, 0), (3, -1)):
        with pytest.raises(CorpusError, match="0 or more"):
            nested(count, 1, 0, minimum)


def test_split_worked_out():
    parts = split(101, {"train": "8/10", "validation": "1/10", "test": "1/10"}, seed=0)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 80,
        "validation": 10,
        "test": 11,
    }
    assert sorted(chain.from_iterable(parts.values())) == list(range(101))
    assert all(part == sorted(part) for part in parts.values())
    assert parts == split(101, {"train": "8/10", "validation": "1/10", "test": "1/10"}, seed=0)
    assert parts != split(101, {"train": "8/10", "validation": "1/10", "test": "1/10"}, seed=1)
    assert parts["train"] != list(range(80))


@given(
    count=st.integers(50, 300),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_shares_that_sum_to_one_use_every_record_once(count, weights, seed):
    parts = split(
        count, {str(n): Fraction(weight, sum(weights)) for n, weight in enumerate(weights)}, seed
    )
    assert sorted(chain.from_iterable(parts.values())) == list(range(count))
    for part, weight in zip(parts.values(), weights, strict=True):
        assert abs(len(part) - Fraction(count * weight, sum(weights))) < 1


def test_a_split_that_cannot_be_is_refused():
    with pytest.raises(CorpusError, match=r"train, test sum to 1\.1"):
        split(10, {"train": 0.9, "test": 0.2}, 0)
    with pytest.raises(CorpusError, match='part "test" gets none of 10 records at a share of 1/20'):
        split(10, {"test": "1/20"}, 0)
    assert len(split(10, {"test": "1/5"}, 0)["test"]) == 2
