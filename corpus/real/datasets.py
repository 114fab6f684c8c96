"""Makes the datasets of the real demo out of the packages' files, in splits that share nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpus.near_duplicates import near
from corpus.real import calls, general, pairs, problems, sums
from corpus.real.item import Item

Splits = dict[str, list[Item]]
"""train, validation and test -> items."""

SPLITS = ("train", "validation", "test")

SIZES = {
    "calls": {"test": 40, "validation": 24, "train": 180},
    "sums": {"test": 40, "validation": 24, "train": 200},
    "problems": {"test": 40, "validation": 20, "train": 120},
    "trivia": {"test": 40, "validation": 24, "train": 180},
    "talk": {"test": 40, "validation": 24, "train": 220},
    "general": {"test": 32, "validation": 24, "train": 0},
}
"""Name of a dataset -> the most items of each split, filled in this order."""

EXPERTS = ("calls", "sums", "problems", "trivia", "talk")
"""The datasets that have an expert."""

UNSEEN = "general"
"""The dataset that no expert is trained on."""

FILES = (
    *(
        f"{calls.FOLDER}/{kind}BFCL_v4_{part}.json"
        for kind in ("", "possible_answer/")
        for part in calls.PARTS
    ),
    *(
        f"{folder}/{number:04}.toml"
        for folder in problems.FOLDERS.values()
        for number in range(problems.PROBLEMS)
    ),
    *(f"{pairs.FOLDER}/{name}.yml" for name in (*pairs.TRIVIA, *pairs.TALK)),
)
"""The files that are read, by their path in the packages."""


VERDICTS: dict[str, Callable[[str, Any], bool]] = {
    "calls": calls.right,
    "sums": sums.right,
    "problems": problems.right,
    "trivia": pairs.right,
}
"""Name of a dataset whose answers can be told right from wrong -> tells it of an answer and an
item's `accepted`.
"""


class SplitCounts(NamedTuple):
    """What became of the items of one dataset."""

    found: int
    same: int
    """Left out, because an earlier item asks the same."""
    near: int
    """Left out of training or validation, being near-duplicates of something in another split."""


class RealData(NamedTuple):
    """All datasets with their counts."""

    datasets: dict[str, Splits]
    counts: dict[str, SplitCounts]


def datasets(files: Mapping[str, bytes], seed: int) -> RealData:
    """Makes all datasets.

    Args:
        files: FILES of the packages, path -> content.
        seed: of the splits and of the sums.
    """
    found = {
        "calls": list(calls.items(files)),
        "sums": sums.items(seed, sum(SIZES["sums"].values())),
        "problems": list(problems.items(files)),
        "trivia": list(pairs.items(files, pairs.TRIVIA)),
        # Small talk has no right answer.
        "talk": [item._replace(accepted=None) for item in pairs.items(files, pairs.TALK)],
        "general": list(general.items()),
    }
    made = {name: split(items, SIZES[name], f"{name} {seed}") for name, items in found.items()}
    return RealData(
        {name: splits for name, (splits, _) in made.items()},
        {name: counts for name, (_, counts) in made.items()},
    )


def split(items: Sequence[Item], sizes: Mapping[str, int], seed: str) -> tuple[Splits, SplitCounts]:
    """Divides items among the splits at random, and removes what two splits would share.

    Args:
        items: in any order. Of several with the same question the first is used.
        sizes: split -> the most items; filled in this order, so that training gets what is left.
        seed: of the division.
    """
    different = {item.question.casefold(): item for item in reversed(items)}
    groups: dict[str, list[Item]] = {}
    for item in reversed(different.values()):
        groups.setdefault(item.group or item.question, []).append(item)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    splits: Splits = {name: [] for name in SPLITS}
    removed = 0
    for name, size in sizes.items():
        others = [item for kept in splits.values() for item in kept]
        while order and len(splits[name]) < size:
            wanted = size - len(splits[name])
            drawn: list[Item] = []
            while order and len(drawn) < wanted:
                drawn += order.pop()
            clean = _unlike(drawn, others)
            removed += len(drawn) - len(clean)
            splits[name] += clean
    return splits, SplitCounts(len(items), len(items) - len(different), removed)


def _unlike(items: list[Item], others: list[Item]) -> list[Item]:
    """Returns the items that are near-duplicates of none of the others.

    Questions are compared, and questions with their answers.
    """
    if not items:
        return []
    asked = near([item.question for item in items], [item.question for item in others])
    whole = near(
        [f"{item.question}\n{item.answer}" for item in items],
        [f"{item.question}\n{item.answer}" for item in others],
    )
    return [
        item for item, same, alike in zip(items, asked, whole, strict=True) if not (same or alike)
    ]


def write(folder: Path, made: Mapping[str, Splits]) -> None:
    """Writes <dataset>/<split>.jsonl for every split that is not empty, and order.json."""
    for name, splits in made.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for part, items in splits.items():
            lines = (json.dumps(item.row, ensure_ascii=False) + "\n" for item in items)
            if items:
                (folder / name / f"{part}.jsonl").write_text("".join(lines), "utf-8")
    (folder / "order.json").write_text(json.dumps(list(made)) + "\n", "utf-8")
