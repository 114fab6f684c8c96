"""Generates sni: instructions that work on a short list of words."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from corpus.demo.family import Draw, Family
from corpus.demo.vocabulary import SIMPLE
from corpus.jsonl import Example


def instruct(instruction: str, words: list[str], output: str) -> Example:
    """Makes an example in the form that all these prompts have."""
    return Example(f"Instruction: {instruction}\nInput: {' '.join(words)}\nOutput:", f" {output}")


def listed(
    low: int, high: int, instructions: tuple[str, ...], output: Callable[[list[str]], str]
) -> Draw:
    """Makes a kind of example whose output depends only on the words.

    Args:
        low: the least number of words.
        high: the greatest number of words.
        instructions: wordings of the instruction.
        output: words -> the right output.
    """

    def draw(rng: Random) -> Example:
        words = rng.sample(SIMPLE, rng.randint(low, high))
        return instruct(rng.choice(instructions), words, output(words))

    return draw


copy = listed(2, 4, ("Copy the words.", "Write the words again."), " ".join)
long_copy = listed(4, 7, ("Copy the words.", "Write the words again."), " ".join)
first = listed(2, 5, ("Give the first word.", "Which word comes first?"), lambda words: words[0])
last = listed(2, 5, ("Give the last word.", "Which word comes last?"), lambda words: words[-1])
second = listed(3, 5, ("Give the second word.", "Which word comes second?"), lambda words: words[1])
backwards = listed(
    3,
    4,
    ("Write the words in reverse order.", "Reverse the list of words."),
    lambda words: " ".join(words[::-1]),
)
# The words are in lower case, so that Python's order is the alphabetical one.
ordered = listed(
    2,
    3,
    ("Sort the words from A to Z.", "Put the words in alphabetical order."),
    lambda words: " ".join(sorted(words)),
)
initials = listed(
    2,
    4,
    ("Give the first letter of each word.",),
    lambda words: " ".join(word[0] for word in words),
)
swapped = listed(
    3,
    4,
    ("Swap the first and the last word.",),
    lambda words: " ".join([words[-1], *words[1:-1], words[0]]),
)
twice = listed(
    2,
    3,
    ("Write each word twice.",),
    lambda words: " ".join(word for word in words for _ in range(2)),
)
count = listed(
    2, 6, ("How many words are there?", "Count the words."), lambda words: str(len(words))
)


def remove(rng: Random) -> Example:
    """Makes an example that removes one word from the list."""
    words = rng.sample(SIMPLE, rng.randint(3, 4))
    gone = rng.choice(words)
    return instruct(
        f"Remove the word {gone}.", words, " ".join(word for word in words if word != gone)
    )


def replace(rng: Random) -> Example:
    """Makes an example that replaces one word of the list."""
    # Drawn together, so that the new word is not already in the list.
    *words, new = rng.sample(SIMPLE, rng.randint(3, 4))
    old = rng.choice(words)
    return instruct(
        f"Replace {old} with {new}.",
        words,
        " ".join(new if word == old else word for word in words),
    )


SNI = Family(
    name="sni",
    mirrors="Super-NaturalInstructions",
    easy=((copy, 0.15), (long_copy, 0.25), (first, 0.2), (last, 0.2), (count, 0.2)),
    full=(
        (first, 0.1), (last, 0.1), (second, 0.1), (backwards, 0.15), (ordered, 0.1),
        (initials, 0.1), (swapped, 0.1), (twice, 0.05), (remove, 0.1), (replace, 0.1),
    ),
    share=0.3,
    taste=1.0,
)  # fmt: skip
