"""Choices: laws of all policies, round-robin by hand, budgets, caps, copies and what is refused."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, strategies

from influence.errors import InfluenceError
from influence.selection.budget import Budget
from influence.selection.choose import choose
from influence.selection.example_set import ExampleSet
from influence.selection.random_scores import random_scores

POLICIES = ["round_robin", "max", "mean"]
NEARLY = [
    "The sum of twelve and seven is nineteen",
    "The sum of seven and twelve is nineteen",
    "the sum of twelve and seven is  nineteen",
    "A quite different text",
]


def draws(pool, columns, seed=0):
    """Scores without ties."""
    return np.random.default_rng(seed).standard_normal((len(pool), columns), np.float32)


def names(pool, choice):
    return [pool.names[row] for row in choice.rows]


def test_round_robin_by_hand(sized_pool, scored):
    """Rows a to e, queries p and q.

       p  q
    a  9  8   p takes a (9); q wants a, which is taken, and takes d (7);
    b  6  1   p takes b (6); q takes e (5); p takes c (4).
    c  4  2
    d  3  7
    e  2  5
    """
    pool = sized_pool(x=5)
    scores = scored(pool, [[9, 8], [6, 1], [4, 2], [3, 7], [2, 5]])
    choice = choose(pool, scores, Budget(5), seed=None)
    assert choice.rows == (0, 3, 1, 4, 2)
    assert [each.score for each in choice.chosen] == [9, 7, 6, 5, 4]
    assert choice.queries == ("q0", "q1", "q0", "q1", "q0")
    # The other query begins with the same best example.
    turned = replace(scores, values=scores.values[:, ::-1])
    assert choose(pool, turned, Budget(5), seed=None).rows == (0, 1, 3, 2, 4)


def test_maximum_and_mean_by_hand(sized_pool, scored):
    pool = sized_pool(x=4)
    scores = scored(pool, [[9, -8], [2, 3], [5, 5], [7, 0]])
    choice = choose(pool, scores, Budget(3), policy="max")
    assert choice.rows == (0, 3, 2) and choice.queries == ("q0", "q0", "q0")
    assert [each.score for each in choice.chosen] == [9, 7, 5]
    choice = choose(pool, scores, Budget(4), policy="mean")
    assert choice.rows == (2, 3, 1, 0) and choice.queries == ("",) * 4
    assert [each.score for each in choice.chosen] == [5, 3.5, 2.5, 0.5]


def test_of_equal_scores_the_first_is_taken(sized_pool, scored):
    pool = sized_pool(x=4)
    for policy in POLICIES:
        assert choose(pool, scored(pool, [1, 2, 2, 1]), Budget(4), policy=policy).rows == (
            1,
            2,
            0,
            3,
        )


def test_one_query_makes_all_policies_equal(sized_pool, scored):
    pool = sized_pool(a=11, b=13)
    scores = scored(pool, draws(pool, 1))
    expected = np.argsort(-scores.values[:, 0])[:17].tolist()
    for policy in POLICIES:
        assert list(choose(pool, scores, Budget(17), policy=policy).rows) == expected


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=strategies.integers(0, 10**6), size=strategies.integers(1, 24))
def test_a_permutation_of_the_pool_permutes_the_choice(policy, seed, size, sized_pool, scored):
    pool = sized_pool(a=11, b=13)
    scores, order = draws(pool, 5, seed), np.random.default_rng(seed).permutation(24)
    mixed = replace(pool, examples=tuple(pool.examples[at] for at in order))
    choice = choose(pool, scored(pool, scores), Budget(size), policy=policy)
    other = choose(mixed, scored(mixed, scores[order]), Budget(size), policy=policy)
    assert choice.chosen == other.chosen and choice.queries == other.queries
    assert len(set(choice.rows)) == size


@given(seed=strategies.integers(0, 10**6))
def test_each_query_has_its_turn_once_in_a_round(seed, sized_pool, scored):
    pool = sized_pool(a=31)
    values = draws(pool, 5, seed)
    choice = choose(pool, scored(pool, values), Budget(20), seed=seed)
    for at in range(0, 20, 5):
        assert sorted(choice.queries[at : at + 5]) == ["q0", "q1", "q2", "q3", "q4"]
    for at, (row, query) in enumerate(zip(choice.rows, choice.queries, strict=True)):
        left = sorted(set(range(31)) - set(choice.rows[:at]))
        assert values[row, int(query[1])] == values[left, int(query[1])].max()


def test_the_seed_orders_the_turns_and_nothing_else_is_random(sized_pool, scored):
    pool = sized_pool(a=31)
    scores = scored(pool, draws(pool, 7))
    first = {choose(pool, scores, Budget(1), seed=seed).queries for seed in range(40)}
    assert len(first) == 7  # every query is the first one for some seed
    assert choose(pool, scores, Budget(20), seed=3) == choose(pool, scores, Budget(20), seed=3)
    assert choose(pool, scores, Budget(1), seed=None).queries == ("q0",)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("unit", ["examples", "supervised", "tokens"])
@pytest.mark.parametrize("cap", [None, 40])
@given(seed=strategies.integers(0, 10**6), amount=strategies.integers(10, 60))
def test_budgets_and_caps_are_never_exceeded(policy, unit, cap, seed, amount, make_pool, scored):
    lengths = np.random.default_rng(seed).integers(1, 9, 40).tolist()
    texts = ["x" * length for length in lengths]
    pool = make_pool({"a": texts[:20], "b": texts[20:]})
    amount = amount // 2 if unit == "examples" else amount
    cap = cap // 2 if cap and unit == "examples" else cap
    budget = Budget(amount, unit, cap)
    choice = choose(pool, scored(pool, draws(pool, 3, seed)), budget, policy=policy)
    costs = [1 if unit == "examples" else getattr(each, unit) for each in pool.examples]
    used = Counter()
    for row in choice.rows:
        used[pool.examples[row].source] += costs[row]
    assert used.total() == choice.used <= amount
    assert cap is None or max(used.values()) <= cap
    # What is left over is less than the longest example for each limit that can leave something.
    assert amount - choice.used < max(costs) * (1 if cap is None else 3)


def test_a_smaller_budget_chooses_the_beginning_of_a_larger_one(make_pool, scored):
    pool = make_pool({"a": ["x" * (1 + at * 7 % 5) for at in range(30)]})
    for policy in POLICIES:
        rows = [
            choose(pool, scored(pool, draws(pool, 3)), Budget(amount, "tokens"), policy=policy).rows
            for amount in range(10, 60, 7)
        ]
        assert all(less == more[: len(less)] for less, more in pairwise(rows))


def test_a_cap_by_hand(sized_pool, scored):
    pool = sized_pool(a=4, b=3, c=2)
    scores = scored(pool, [9, 8, 7, 6, 5, 4, 3, 2, 1])
    assert choose(pool, scores, Budget(6, cap=2)).rows == (0, 1, 4, 5, 7, 8)
    assert choose(pool, scores, Budget(6, cap=0.5)).rows == (0, 1, 2, 4, 5, 6)
    words = "the budget is 7 examples, and only 6 examples can be chosen: each source may give 2. "
    with pytest.raises(InfluenceError, match=words + "Give a smaller budget or a higher cap"):
        choose(pool, scores, Budget(7, cap=2))


def test_caps_of_equal_shares_fill_a_budget_of_tokens(make_pool, scored):
    """No source reaches its cap exactly, because the next example is too long for it."""
    pool = make_pool({name: ["x" * (3 + at % 4) for at in range(30)] for name in "abcde"})
    scores = scored(pool, draws(pool, 3))
    choice = choose(pool, scores, Budget(101, "supervised", cap="1/5"))
    assert 101 - 5 * 7 < choice.used <= 101
    with pytest.raises(InfluenceError, match="with [0-9]+ supervised tokens can be chosen"):
        choose(pool, scores, Budget(101, "supervised", cap="1/7"))


def test_a_cap_below_every_example_and_a_budget_below_the_first_are_refused(make_pool, scored):
    pool = make_pool({"a": ["12345", "1234567"]})
    scores = scored(pool, [1, 2])
    with pytest.raises(InfluenceError, match="only 0 examples with 0 supervised tokens can be"):
        choose(pool, scores, Budget(10, "supervised", cap=3))
    with pytest.raises(
        InfluenceError, match=r"5 supervised tokens, and the best example has 8 .a, l"
    ):
        choose(pool, scores, Budget(5, "supervised"))


def test_of_copies_the_better_scored_one_is_chosen(make_pool, scored):
    pool = make_pool({"a": ["one", "two", "three"], "b": ["TWO", "four", "one "]})
    scores = scored(pool, [[1, 9], [5, 2], [4, 3], [6, 1], [2, 4], [8, 7]])
    assert choose(pool, scores, Budget(4), policy="max", copies="exact").rows == (0, 3, 2, 4)
    by_turns = choose(pool, scores, Budget(4), copies="exact", seed=None)
    assert by_turns.rows == (5, 4, 3, 2) and by_turns.copies == 1
    assert by_turns.in_words.endswith("4 of 6 examples; 1 duplicate passed over")
    assert choose(pool, scores, Budget(6), policy="max").copies == 0
    with pytest.raises(
        InfluenceError, match="only 4 examples can be chosen: 2 are copies. Give a sm"
    ):
        choose(pool, scores, Budget(5), copies="exact")


def test_the_copy_of_a_closed_source_does_not_keep_another_one_out(make_pool, scored):
    pool = make_pool({"a": ["one", "two"], "b": ["two", "three"]})
    scores = scored(pool, [4, 3, 2, 1])
    assert choose(pool, scores, Budget(3, cap=1.0), copies="exact").rows == (0, 1, 3)
    assert choose(pool, scores, Budget(2, cap=1), copies="exact").rows == (0, 2)


def test_near_duplicates_are_passed_over(make_pool, scored):
    pool = make_pool({"a": NEARLY}, prompt="")
    scores = scored(pool, [4, 3, 2, 1])
    assert choose(pool, scores, Budget(2), copies="exact").rows == (0, 1)
    choice = choose(pool, scores, Budget(2), copies="near")
    assert choice.rows == (0, 3) and choice.copies == 2


def test_scores_of_another_pool_and_unknown_policies_are_refused(sized_pool, scored):
    pool = sized_pool(a=3)
    scores = scored(pool, [1, 2, 3])
    mixed = ExampleSet(pool.examples[::-1], pool.left_out)
    with pytest.raises(InfluenceError, match="of 3 other examples, or in another order than the 3"):
        choose(mixed, scores, Budget(1))
    with pytest.raises(InfluenceError, match="'best'; expected round_robin, max, mean"):
        choose(pool, scores, Budget(1), policy="best")


def test_the_choice_in_words(make_pool):
    pool = make_pool({"a": ["12", "34"], "b": ["56", "78"]})
    choice = choose(pool, random_scores(pool, 0), Budget(7, "supervised", cap=4), policy="max")
    assert choice.in_words == (
        "random, max: 2 of 4 examples, 6 of 7 supervised tokens in the budget, at most 4 supervised "
        "tokens of each source"
    )
