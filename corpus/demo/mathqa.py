"""Generates mathqa: word problems with four options, answered without a chain of steps."""

from __future__ import annotations

from random import Random

from corpus.demo.family import Family, choose
from corpus.demo.vocabulary import BOXES, PEOPLE, PLURAL, THINGS
from corpus.jsonl import Example


def problem(rng: Random, text: str, right: int, near: tuple[int, ...]) -> Example:
    """Makes a problem with its right answer and three wrong ones, from `near` and close numbers."""
    # `near` holds the results of likely mistakes, such as a sum in the place of a product, so that
    # the size of a number alone does not give the answer away.
    wrong = [number for number in dict.fromkeys(near) if number > 0 and number != right]
    rng.shuffle(wrong)
    wrong = wrong[:2]
    while len(wrong) < 3:
        number = right + rng.choice((-10, -4, -3, -2, -1, 1, 2, 3, 4, 10))
        if number > 0 and number != right and number not in wrong:
            wrong.append(number)
    return choose(
        rng,
        f"Problem: {text}\nOptions: {{options}}\nAnswer:",
        str(right),
        [str(number) for number in wrong],
    )


def times(rng: Random, low: int, high: int) -> Example:
    """Makes a problem whose answer is a product: boxes times things in each box."""
    each, count = rng.randint(low, high), rng.randint(low, high)
    box, things, name = rng.choice(BOXES), rng.choice(THINGS), rng.choice(PEOPLE)
    text = rng.choice(
        (
            f"One {box} holds {each} {things}. How many {things} are in {count} {PLURAL[box]}?",
            f"{name} has {count} {PLURAL[box]} with {each} {things} in each. "
            f"How many {things} is that?",
            f"There are {count} {PLURAL[box]} and each holds {each} {things}. "
            f"How many {things} are there?",
        )
    )
    return problem(rng, text, each * count, (each + count, each * (count + 1), each * (count - 1)))


def share(rng: Random) -> Example:
    """Makes a problem whose answer is a quotient: a total shared equally."""
    # The total is made from its factors, so that it divides evenly.
    each, count = rng.randint(2, 9), rng.randint(2, 9)
    box, things, name = rng.choice(BOXES), rng.choice(THINGS), rng.choice(PEOPLE)
    text = rng.choice(
        (
            f"{name} shares {each * count} {things} among {count} friends. "
            f"How many {things} does each friend get?",
            f"{each * count} {things} are packed in {count} {PLURAL[box]}. "
            f"How many {things} are in each {box}?",
        )
    )
    return problem(rng, text, each, (count, each + 1, each - 1, each + 2))


def travel(rng: Random) -> Example:
    """Makes a problem of speed times hours, in kilometres."""
    speed, hours = rng.randint(3, 9) * rng.choice((1, 10)), rng.randint(2, 9)
    who = rng.choice((*PEOPLE, "A boat", "A bus", "A car", "A train"))
    text = f"{who} travels {speed} km each hour. How many km is that in {hours} hours?"
    return problem(
        rng, text, speed * hours, (speed + hours, speed * (hours + 1), speed * (hours - 1))
    )


def rectangle(rng: Random) -> Example:
    """Makes a problem about the area or the perimeter of a rectangle."""
    long, wide = rng.randint(2, 12), rng.randint(2, 9)
    area = rng.random() < 0.5
    place = rng.choice(
        ("carpet", "field", "garden", "hall", "lawn", "park", "room", "wall", "window", "yard")
    )
    owner = rng.choice(PEOPLE)
    text = (
        f"The {place} of {owner} is {long} m long and {wide} m wide. "
        f"What is its {'area' if area else 'perimeter'}?"
    )
    right, other = (long * wide, 2 * (long + wide)) if area else (2 * (long + wide), long * wide)
    return problem(rng, text, right, (other, long + wide, right + 2))


def average(rng: Random) -> Example:
    """Makes a problem whose answer is the mean of two numbers."""
    middle, half = rng.randint(5, 40), rng.randint(1, 4)
    things, name = rng.choice(THINGS), rng.choice(PEOPLE)
    # Both are equally far from the mean, so that it is a whole number.
    first, second = rng.sample((middle - half, middle + half), 2)
    text = (
        f"{name} sold {first} {things} one day and {second} the next. What is the average per day?"
    )
    return problem(rng, text, middle, (first, second, first + second))


def together(rng: Random) -> Example:
    """Makes a problem whose answer is a sum up to 20."""
    first, second = rng.randint(1, 10), rng.randint(1, 10)
    (one, other), things = rng.sample(PEOPLE, 2), rng.choice(THINGS)
    text = (
        f"{one} has {first} {things} and {other} has {second}. "
        f"How many {things} do they have together?"
    )
    return problem(
        rng, text, first + second, (abs(first - second), first + second + 1, first + second - 1)
    )


def small_times(rng: Random) -> Example:
    """Makes a problem whose answer is a product of numbers up to 5."""
    return times(rng, 1, 5)


def large_times(rng: Random) -> Example:
    """Makes a problem whose answer is a product of numbers from 3 to 12."""
    return times(rng, 3, 12)


MATHQA = Family(
    name="mathqa",
    mirrors="MathQA",
    easy=((together, 0.5), (small_times, 0.5)),
    full=(
        (together, 0.1),
        (large_times, 0.25),
        (share, 0.2),
        (travel, 0.15),
        (rectangle, 0.15),
        (average, 0.15),
    ),
    share=0.15,
    taste=0.7,
)
