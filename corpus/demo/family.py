"""What a family of the demo is: one dataset as several kinds of example, some of them easy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from corpus.jsonl import Example

Draw = Callable[[Random], Example]
"""Draws one example of a kind from a random generator."""


@dataclass(frozen=True)
class Family:
    """One of the paper's five sources in miniature.

    Attributes:
        name: name of the dataset and of its expert.
        mirrors: the source of the paper that it represents.
        easy: kinds of example that the base learns, with weights, so that the base is partly able.
        full: kinds of example that the dataset holds in its three splits, with weights.
        share: its share of the joint corpus; families that are learned slowly get more.
        taste: how often the joint corpus shows full kinds, 0 to 1; families that are learned from
            few examples get less.
    """

    name: str
    mirrors: str
    easy: tuple[tuple[Draw, float], ...]
    full: tuple[tuple[Draw, float], ...]
    share: float = 0.2
    taste: float = 1.0

    def draw(self, rng: Random, *, easy: bool = False) -> Example:
        """Draws one example, of the easy kinds or of the dataset's kinds."""
        kinds = self.easy if easy else self.full
        (kind,) = rng.choices([draw for draw, _ in kinds], [weight for _, weight in kinds])
        return kind(rng)


def choose(rng: Random, prompt: str, right: str, wrong: list[str]) -> Example:
    """Makes a multiple-choice example with shuffled choices, which replace {options} in the prompt.

    A model that scores all choices alike picks the first one, so the right one must not always be
    at the same position.
    """
    choices = [right, *wrong]
    rng.shuffle(choices)
    text = prompt.replace("{options}", ", ".join(choices))
    return Example(text, f" {right}", tuple(choices), choices.index(right))
