"""Budgets and caps: counts, shares, and what is refused."""

from fractions import Fraction

import pytest

from influence.errors import InfluenceError
from influence.selection.budget import Budget, Limits


@pytest.mark.parametrize(
    ("budget", "amount", "cap"),
    [
        (Budget(7), 7, None),
        (Budget(0.3), 3, None),  # 3.9 rounded down
        (Budget("1/3"), 4, None),
        (Budget(1), 1, None),
        (Budget(1.0), 13, None),
        (Budget(Fraction(1, 13)), 1, None),
        (Budget(0.7, cap=2), 9, 2),
        (Budget(7, cap=0.5), 7, 4),  # 3.5 rounded up: two sources with a half each fill it
        (Budget(30, "supervised"), 30, None),
        (Budget(0.5, "supervised"), 19, None),  # 13 examples of 3 supervised tokens
        (Budget(0.5, "tokens", cap="1/5"), 26, 6),  # of 4 tokens: 26 of 52, 5.2 rounded up
    ],
)
def test_amounts_of_13_examples(sized_pool, budget, amount, cap):
    limits = Limits(sized_pool(a=6, b=7), budget)
    assert (limits.amount, limits.cap) == (amount, cap)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(14), "the budget is 14 examples, and the pool has 13. Give a smaller budget"),
        (Budget(40, "supervised"), "the budget is 40 supervised tokens, and the pool has 39"),
        (Budget(0), "the budget is 0, which is 0 of 13 examples. Give at least 1"),
        (Budget(-2), "the budget is -2"),
        (Budget(0.05), "the budget is 0.05, which is 0 of 13 examples"),
        (Budget(1.5), "the budget: a share of 1.5 is outside 0 to 1"),
        (Budget(True), "the budget: True is not a share"),
        (Budget("many"), "the budget: 'many' is not a share"),
        (Budget(5, cap=0), "the cap is 0, which is 0 of 5 examples"),
        (Budget(5, cap="x"), "the cap: 'x' is not a share"),
        (Budget(5, "words"), "unit of the budget is 'words'; expected examples, supervised, tokens"),
    ],
)  # fmt: skip
def test_amounts_that_are_refused(sized_pool, budget, words):
    with pytest.raises(InfluenceError, match=words):
        Limits(sized_pool(a=6, b=7), budget)


def test_a_source_is_closed_by_its_first_example_that_exceeds_the_cap(make_pool):
    pool = make_pool({"a": ["12", "1234", "1"], "b": ["1"]})  # 3, 5, 2 and 2 supervised tokens
    limits = Limits(pool, Budget(10, "supervised", cap=6))
    assert limits.is_open(0)
    limits.add(0)
    assert limits.used == 3 and limits.fits(1) and not limits.is_open(1)
    assert not limits.is_open(2)  # it would fit
    assert limits.is_open(3)
