"""Equal and proportional shares of domains."""

from influence.balance.stratified import stratified


def test_by_hand():
    assert stratified([700, 200, 100], 30) == [10, 10, 10]
    assert stratified([700, 200, 100], 30, "proportional") == [21, 6, 3]


def test_without_a_total_there_are_as_many_examples_as_before():
    assert stratified([700, 200, 101]) == [334, 334, 333]
    assert stratified([700, 200, 101], shares="proportional") == [700, 200, 101]
