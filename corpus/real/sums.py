"""Sums of two to four numbers, worked step by step: generated."""

from __future__ import annotations

import random
import re
from typing import Any

from corpus.real.item import Item

LARGEST = 99
"""Largest number in a question."""


def items(seed: int, count: int) -> list[Item]:
    """Returns different questions with worked answers.

    >>> items(0, 1)[0].answer
    '47 + 85 = 132\\n132 - 29 = 103\\nThe answer is 103.'

    Args:
        seed: of the numbers.
        count: how many.
    """
    draw, made = random.Random(f"sums {seed}"), dict[str, Item]()
    while len(made) < count:
        one = _item(draw)
        made.setdefault(one.question, one)
    return list(made.values())


def _item(draw: random.Random) -> Item:
    terms = [draw.randint(10, LARGEST) for _ in range(draw.randint(2, 4))]
    total, question, lines = terms[0], str(terms[0]), []
    for term in terms[1:]:
        # Nothing falls below 0: how a negative number is written is another skill.
        sign = draw.choice("+-") if total >= term else "+"
        after = total + term if sign == "+" else total - term
        lines.append(f"{total} {sign} {term} = {after}")
        question, total = f"{question} {sign} {term}", after
    answer = "\n".join([*lines, f"The answer is {total}."])
    return Item(f"What is {question}? Work step by step.", answer, str(total))


def right(answer: str, accepted: Any) -> bool:
    """Returns whether the last number of a text is the accepted one.

    >>> right("12 + 3 = 15\\nThe answer is 15.", "15")
    True
    """
    return last_number(answer) == str(accepted)


def last_number(text: str) -> str:
    """Returns the last whole number of a text, without separators of thousands; "" if none."""
    found = re.findall(r"-?\d[\d,]*", text)
    return found[-1].rstrip(",").replace(",", "") if found else ""
