"""What a family of the demo is: kinds of example, some easy, each drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from corpus.jsonl import Example

Draw = Callable[[Random], Example]


@dataclass(frozen=True)
class Family:
    """One of the five sources in miniature.

    Attributes:
        name: name of the dataset and of its expert.
        mirrors: the source of the paper that it stands for.
        easy: kinds that the base learns, with weights; what keeps the base partly able.
        full: kinds that the dataset holds, in its three splits, with weights.
        share: share of the joint corpus; families that are learned slowly get more.
        taste: how readily the joint corpus shows full kinds, 0 to 1; families that are learned from few get less.
    """

    name: str
    mirrors: str
    easy: tuple[tuple[Draw, float], ...]
    full: tuple[tuple[Draw, float], ...]
    share: float = 0.2
    taste: float = 1.0

    def draw(self, rng: Random, *, easy: bool = False) -> Example:
        """One example, of the easy kinds only or of the dataset's."""
        kinds = self.easy if easy else self.full
        (kind,) = rng.choices([draw for draw, _ in kinds], [weight for _, weight in kinds])
        return kind(rng)


def choose(rng: Random, prompt: str, right: str, wrong: list[str]) -> Example:
    """A multiple-choice example with the choices shuffled; the prompt's {options} becomes the list of them.

    An untrained model that scores all choices alike picks the first, so the right one must not sit at a fixed place.
    """
    choices = [right, *wrong]
    rng.shuffle(choices)
    text = prompt.replace("{options}", ", ".join(choices))
    return Example(text, f" {right}", tuple(choices), choices.index(right))
