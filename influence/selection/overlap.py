"""Finds validation examples that are in the pool too; a score for these measures memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from influence.selection.example_set import ExampleSet
from influence.selection.texts_alike import text_key

SHOWN = 3


@dataclass(frozen=True)
class Overlap:
    """Which validation examples have the same text as an example of the pool.

    Texts are compared without case, white space and Unicode form; see text_key.
    """

    pairs: tuple[tuple[int, int], ...]
    """(index among the validation examples, index of the first such example in the pool)."""
    in_words: str
    """What a person is told, each of the first examples by name; "" if there is no overlap."""


def find_overlap(pool: ExampleSet, targets: ExampleSet) -> Overlap:
    """Compares the texts of the validation examples with those of the pool."""
    first: dict[str, int] = {}
    for row, each in enumerate(pool.examples):
        first.setdefault(text_key(each.record), row)
    keys = [text_key(each.record) for each in targets.examples]
    pairs = tuple((at, first[key]) for at, key in enumerate(keys) if key in first)
    if not pairs:
        return Overlap((), "")
    sizes = Counter(each.source for each in targets.examples)
    found = Counter(targets.examples[at].source for at, _ in pairs)
    shares = ", ".join(f"{name} {count} of {sizes[name]}" for name, count in found.items())
    shown = "; ".join(
        f"{targets.examples[at].name} is {pool.examples[row].name}" for at, row in pairs[:SHOWN]
    )
    shown += f"; and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return Overlap(
        pairs,
        f"{len(pairs)} of {len(targets)} validation examples are in the pool, word for word "
        f"({shares}): {shown}. A method finds them by their own text. Remove them from the pool "
        "or from the validation examples, unless they were planted.",
    )
