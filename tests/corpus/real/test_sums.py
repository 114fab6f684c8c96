"""Sums: every line of every answer is true."""

import re

import pytest

from corpus.real.sums import items, last_number, right


def test_every_line_is_true_and_the_last_number_is_the_result():
    for item in items(0, 200):
        question = re.fullmatch(r"What is ([\d +-]+)\? Work step by step\.", item.question)[1]
        *steps, last = item.answer.splitlines()
        for step in steps:
            left, result = step.split(" = ")
            assert eval(left) == int(result) >= 0  # digits and signs only
        assert last == f"The answer is {eval(question)}."
        assert len(steps) == len(re.findall("[+-]", question))
        assert right(item.answer, item.accepted) and not right("It is 9999.", item.accepted)


def test_questions_differ_and_depend_on_the_seed_only():
    asked = [item.question for item in items(0, 300)]
    assert len(set(asked)) == 300
    assert asked == [item.question for item in items(0, 300)]
    assert asked != [item.question for item in items(1, 300)]


@pytest.mark.parametrize(
    ("text", "number"),
    [("1 + 2 = 3.", "3"), ("1,234 of them", "1234"), ("-5", "-5"), ("12, or so", "12"), ("", "")],
)
def test_the_last_number(text, number):
    assert last_number(text) == number
