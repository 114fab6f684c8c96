"""Settings of a recipe: numbers, gradients over the layers, rules by name. The numbers are mergekit's grammar by hand."""

import pytest

from merging.errors import RecipeError
from merging.recipe.settings import check, filters, resolve


@pytest.mark.parametrize(
    ("depth", "value"), [(0.0, 0.0), (0.25, 0.2), (0.5, 0.4), (0.75, 0.7), (1.0, 1.0)]
)
def test_a_gradient_is_linear_between_its_entries(depth, value):
    assert resolve([0.0, 0.4, 1.0], "any", depth) == pytest.approx(value)


def test_a_gradient_of_booleans_takes_the_entry_below():
    assert [
        resolve([True, False, True], "any", depth) for depth in (0.0, 0.49, 0.5, 0.99, 1.0)
    ] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_the_first_matching_rule_wins_and_none_may_match():
    rules = [{"filter": "mlp", "value": 0.5}, {"filter": "l.1", "value": [0.0, 1.0]}]
    assert resolve(rules, "l.1.mlp.w", 1.0) == 0.5
    assert resolve(rules, "l.1.attn.w", 0.75) == 0.75
    assert resolve(rules, "norm", 0.0) is None
    assert resolve({"filter": None, "value": 3.0}, "norm", 0.0) == 3.0
    assert resolve([*rules, {"filter": "*", "value": 2.0}], "norm", 0.0) == 2.0
    assert filters(rules) == ["mlp", "l.1"] and filters(0.5) == []


def test_numeric_text_is_a_number():
    assert check("1e-3", "w") == 0.001
    assert check([{"value": "2"}], "w") == [{"value": 2.0}]
    assert check([0.0, 1], "w") == [0.0, 1]
    assert check(True, "w") is True


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ([], "w is an empty list"),
        ("much", "w is 'much', expected a number"),
        (float("nan"), "w is nan, expected a finite number"),
        ([0.0, float("inf")], r"w\[1\] is inf, expected a finite number"),
        (None, "w is .*None.*, expected a number"),
        ([{"filter": "a"}], r"w\[0\] is .* expected \{filter"),
        ({"filter": 3, "value": 1}, "w.filter is 3, expected a part of a tensor's name"),
        ({"filter": "a", "value": 1, "more": 2}, "expected {filter"),
    ],
)
def test_what_is_no_setting_is_refused(setting, message):
    with pytest.raises(RecipeError, match=message):
        check(setting, "w")
