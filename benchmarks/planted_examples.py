"""Claim: selection finds the examples of a pool that are of the kind that is wanted.

    python -m benchmarks.planted_examples [--rounds 5] [--targets mathqa sni] [--keep FOLDER]

For each target, a source of the demo: the pool is training data of the other sources, and among it,
as 5 % of the whole, training examples of the target. What is wanted is shown by `--shown` of its
validation examples. A method ranks the pool. Its precision is the share of planted examples among
the first 5 %: 1 finds them all, 0.05 is chance.

Copies of the validation examples themselves are planted as well, in a second pool. How far down the
ranking are they, as a share of the pool? The median copy is shown, and the last one.

A round is another draw. The median of the rounds is shown, with the lowest and the highest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.selections_compared import METHODS, ROWS_OPTION, asked, begin

if TYPE_CHECKING:
    from corpus import Record

PLANTED = 0.05
"""The share of the pool that is planted, and that is looked at."""
PLANTS = ("of its kind", "copies")


def main(argv: Sequence[str] | None = None) -> None:
    """Plant examples, rank the pool with each method, and print where they are."""

    options = machine.begin(
        __file__, __doc__, argv, rounds=5,
        targets={"nargs": "*", "default": ["mathqa", "sni"], "help": "sources that are wanted"},
        rows=ROWS_OPTION,
        pool=machine.number(400, "examples of a pool"),
        shown=machine.number(20, "validation examples that are shown"),
        epochs=machine.number(2, "passes of the warm-up"),
        keep={"type": Path, "help": "keep everything in this folder, and go on with what it holds"},
        demo={"type": Path, "default": machine.DEMO, "help": "a folder like the demo's"},
    )  # fmt: skip
    with ExitStack() as stack:
        root = options.keep or Path(stack.enter_context(TemporaryDirectory()))
        for target in options.targets:
            rounds = [one_round(options, root, target, seed) for seed in range(options.rounds)]
            print(f"Wanted: {target}\n")
            show(rounds)


def _rows(options: Any) -> list[str]:
    """Returns the rows that are asked for. Stratified would see by its source what is planted."""
    return [row for row in METHODS if row in ("random", *options.rows) and row != "stratified"]


def one_round(options: Any, root: Path, target: str, seed: int) -> dict[str, tuple[float, ...]]:
    """Returns row -> precision, and the places of the median copy and of the last one."""
    from corpus import read_datasets

    folder = root / f"{target}-{seed}"
    random = Random(f"{target}/{seed}")
    training = read_datasets(options.demo / "data", "train")
    validation = read_datasets(options.demo / "data", "validation")[target]
    shown = random.sample(list(validation), options.shown)
    wanted = {target: shown}
    own = random.sample(list(training.pop(target)), round(PLANTED * options.pool))
    others = [record for records in training.values() for record in records]
    others = random.sample(others, options.pool - len(own))
    found: dict[str, tuple[float, ...]] = {}
    for plant, planted in zip(PLANTS, (own, shown), strict=True):
        data = folder / plant / "data"
        write_pool(data, {"others": others, "planted": planted})
        study = begin(options, folder / plant / "study", data, seed)
        count = len(others) + len(planted)
        for row in _rows(options):
            ranked = asked(study, wanted, row, count, seed).choice.chosen
            places = [place for place, each in enumerate(ranked) if each.source == "planted"]
            if plant == PLANTS[0]:
                found[row] = (sum(place < len(own) for place in places) / len(own),)
            else:
                found[row] += (median(places) / count, places[-1] / count)
    return found


def write_pool(folder: Path, sources: Mapping[str, Sequence[Record]]) -> None:
    """Writes the training data of each source as SOURCE/train.jsonl."""
    from corpus import write_jsonl

    for name, records in sources.items():
        write_jsonl(folder / name / "train.jsonl", records)


def show(rounds: Sequence[Mapping[str, Sequence[float]]]) -> None:
    """Print each row's numbers."""
    rows = []
    for row in rounds[0]:
        numbers = zip(*(each[row] for each in rounds), strict=True)
        rows.append([row, *(machine.spread(each).text(".3f") for each in numbers)])
    machine.show(["ranked by", "precision", "median copy", "last copy"], rows)


if __name__ == "__main__":
    main()
