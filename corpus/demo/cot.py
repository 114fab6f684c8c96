"""Generates cot: chain-of-thought arithmetic, with every step written out before the answer."""

from __future__ import annotations

from random import Random

from corpus.demo.family import Family
from corpus.demo.vocabulary import PEOPLE, PRONOUN, THINGS, two
from corpus.jsonl import Example

GAINS = ("finds {n} more", "buys {n} more", "gets {n} from {friend}", "wins {n} more")
LOSSES = ("loses {n}", "sells {n}", "gives {n} to {friend}", "gives away {n}")
JOINS = ("Then {pronoun} {event}.", "Later {pronoun} {event}.", "After that {pronoun} {event}.")


def story(rng: Random, steps: int, highest: int) -> Example:
    """Makes a story in which a number changes `steps` times and stays between 0 and `highest`.

    "Mia has 23 apples. She buys 14 more. Then she loses 5. How many apples does Mia have now?"
    -> " 23 + 14 = 37. 37 - 5 = 32. The answer is 32."
    """
    (name, friend), things = two(rng, PEOPLE), rng.choice(THINGS)
    pronoun = PRONOUN[name]
    count = rng.randint(2, highest - 2)
    text, chain = [f"{name} has {count} {things}."], []
    for step in range(steps):
        # A number near 0 can only rise and one near `highest` only fall, so no step leaves the
        # range.
        gain = count < 2 or (count <= highest - 2 and rng.random() < 0.5)
        change = rng.randint(1, highest - count) if gain else rng.randint(1, count)
        event = rng.choice(GAINS if gain else LOSSES).format(n=change, friend=friend)
        join = "{pronoun} {event}." if step == 0 else rng.choice(JOINS)
        sentence = join.format(pronoun=pronoun, event=event)
        text.append(sentence[0].upper() + sentence[1:])
        after = count + change if gain else count - change
        chain.append(f"{count} {'+' if gain else '-'} {change} = {after}.")
        count = after
    question = (
        f"Question: {' '.join(text)} How many {things} does {name} have now?\nThink step by step:"
    )
    return Example(question, f" {' '.join(chain)} The answer is {count}.")


def small(rng: Random) -> Example:
    """Makes a story of one step with numbers up to 10."""
    return story(rng, steps=1, highest=10)


def small_double(rng: Random) -> Example:
    """Makes a story of two steps with numbers up to 10."""
    return story(rng, steps=2, highest=10)


def one(rng: Random) -> Example:
    """Makes a story of one step with numbers up to 20."""
    return story(rng, steps=1, highest=20)


def double(rng: Random) -> Example:
    """Makes a story of two steps with numbers up to 20."""
    return story(rng, steps=2, highest=20)


def triple(rng: Random) -> Example:
    """Makes a story of three steps with numbers up to 20."""
    return story(rng, steps=3, highest=20)


COT = Family(
    name="cot",
    mirrors="CoT",
    easy=((small, 0.5), (small_double, 0.5)),
    full=((small_double, 0.1), (one, 0.2), (double, 0.5), (triple, 0.2)),
    share=0.3,
)
