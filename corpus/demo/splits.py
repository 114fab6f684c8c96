"""The demo's data: five datasets with disjoint splits, and the base's corpus, all from one seed."""

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
"""Examples per dataset and split. Held-out splits are drawn first, so that a larger train split leaves them as they are."""

SHIPPED_TRAIN = 1200
"""Rows of train.jsonl: the first part of the train split, so that the data that ships stays under 2 MB."""


def datasets(seed: int = 0) -> dict[str, dict[str, list[Example]]]:
    """dataset -> split -> examples. No prompt occurs twice within a dataset, in one split or across splits."""
    return {family.name: _splits(family, seed) for family in FAMILIES}


def _splits(family: Family, seed: int) -> dict[str, list[Example]]:
    seen: set[str] = set()
    rng = Random(f"{family.name}/{seed}")
    return {split: _fresh(family, rng, seen, size) for split, size in SIZES.items()}


def _fresh(family: Family, rng: Random, seen: set[str], size: int) -> list[Example]:
    found: list[Example] = []
    while len(found) < size:
        example = family.draw(rng)
        if example.prompt not in seen:
            seen.add(example.prompt)
            found.append(example)
    return found


def mixture(seed: int, size: int, *, hard: float, held_out: set[str]) -> list[Example]:
    """A joint corpus: families by their share, easy kinds but for `hard` (0 to 1) times their taste of their full kinds.

    The base learns from it, and experts rehearse it with hard = 0. Prompts in `held_out` never occur in it.
    """
    rng = Random(f"mixture/{seed}/{hard}")
    draws = _endless(rng, hard, held_out)
    return [next(draws) for _ in range(size)]


def _endless(rng: Random, hard: float, held_out: set[str]) -> Iterator[Example]:
    shares = [family.share for family in FAMILIES]
    while True:
        (family,) = rng.choices(FAMILIES, shares)
        example = family.draw(rng, easy=rng.random() >= hard * family.taste)
        if example.prompt not in held_out:
            yield example


def held_out(data: dict[str, dict[str, list[Example]]]) -> set[str]:
    """Prompts of the validation and test splits of all datasets: nothing is ever trained on them."""
    return {
        example.prompt
        for splits in data.values()
        for name in ("validation", "test")
        for example in splits[name]
    }


def write(folder: Path, data: dict[str, dict[str, list[Example]]]) -> None:
    """folder/<dataset>/<split>.jsonl and the order of the datasets; the train split cut to SHIPPED_TRAIN rows."""
    for name, splits in data.items():
        for split, examples in splits.items():
            write_jsonl(
                folder / name / f"{split}.jsonl",
                examples[:SHIPPED_TRAIN] if split == "train" else examples,
            )
    (folder / ORDER_FILE).write_text(json.dumps(list(data)) + "\n", "utf-8")
    (folder / "README.md").write_text(CARD, "utf-8")
