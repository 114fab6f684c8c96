"""Draws the demo's data from one seed: five datasets with disjoint splits, and a joint corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from corpus.demo.card import CARD
from corpus.demo.cot import COT
from corpus.demo.dialog import DIALOG
from corpus.demo.family import Family
from corpus.demo.mathqa import MATHQA
from corpus.demo.p3 import P3
from corpus.demo.sni import SNI
from corpus.jsonl import ORDER_FILE, Example, write_jsonl

FAMILIES: tuple[Family, ...] = (COT, MATHQA, P3, SNI, DIALOG)
SIZES = {"test": 300, "validation": 200, "train": 6000}
"""Examples per dataset and split.

The held-out splits are drawn first, so that a larger train split does not change them.
"""

SHIPPED_TRAIN = 1200
"""Rows of the shipped train.jsonl: the first of the train split, so the data stays under 2 MB."""


def datasets(seed: int = 0) -> dict[str, dict[str, list[Example]]]:
    """Draws all datasets: name -> split -> examples.

    No prompt occurs twice within a dataset, neither in one split nor across splits.
    """
    return {family.name: _splits(family, seed) for family in FAMILIES}


def _splits(family: Family, seed: int) -> dict[str, list[Example]]:
    """Draws the splits of one dataset."""
    seen: set[str] = set()
    # A generator per family, so that a change to one family leaves the data of the others as it is.
    rng = Random(f"{family.name}/{seed}")
    return {split: _fresh(family, rng, seen, size) for split, size in SIZES.items()}


def _fresh(family: Family, rng: Random, seen: set[str], size: int) -> list[Example]:
    """Draws examples whose prompts are not in `seen`, and adds their prompts to it."""
    examples: list[Example] = []
    while len(examples) < size:
        example = family.draw(rng)
        # Compared by prompt alone: whoever was trained on a prompt knows its answer.
        if example.prompt not in seen:
            seen.add(example.prompt)
            examples.append(example)
    return examples


def mixture(seed: int, size: int, *, hard: float, held_out: set[str]) -> list[Example]:
    """Draws a joint corpus, in which each family has its share.

    The base learns from it, and experts rehearse it with hard = 0.

    Args:
        seed: seeds the draws.
        size: number of examples.
        hard: 0 to 1; times a family's taste, it is the probability of a full kind instead of an
            easy one.
        held_out: prompts that never occur in the corpus.
    """
    # `hard` is part of the seed, so that the base's corpus and what experts rehearse are different
    # draws.
    rng = Random(f"mixture/{seed}/{hard}")
    draws = _endless(rng, hard, held_out)
    return [next(draws) for _ in range(size)]


def _endless(rng: Random, hard: float, held_out: set[str]) -> Iterator[Example]:
    """Yields the joint corpus, example by example, without end."""
    shares = [family.share for family in FAMILIES]
    while True:
        (family,) = rng.choices(FAMILIES, shares)
        example = family.draw(rng, easy=rng.random() >= hard * family.taste)
        if example.prompt not in held_out:
            yield example


def held_out(data: dict[str, dict[str, list[Example]]]) -> set[str]:
    """Returns the prompts of all validation and test splits, on which nothing is ever trained."""
    return {
        example.prompt
        for splits in data.values()
        for name in ("validation", "test")
        for example in splits[name]
    }


def write(folder: Path, data: dict[str, dict[str, list[Example]]]) -> None:
    """Writes folder/<dataset>/<split>.jsonl, the order of the datasets and the README.

    The train split is cut to SHIPPED_TRAIN rows.
    """
    for name, splits in data.items():
        for split, examples in splits.items():
            write_jsonl(
                folder / name / f"{split}.jsonl",
                examples[:SHIPPED_TRAIN] if split == "train" else examples,
            )
    (folder / ORDER_FILE).write_text(json.dumps(list(data)) + "\n", "utf-8")
    (folder / "README.md").write_text(CARD, "utf-8")
