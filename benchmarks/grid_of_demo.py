"""Claim: the searches for ω come within 1 % of the best of a grid of 7,776 compositions.

    python -m benchmarks.grid_of_demo [--out benchmarks/grid_of_demo.csv]

The grid has 6 levels for each ω of the demo's five vectors, from 0 to 1. What is sought is the
lowest mean validation loss over the five datasets. All 7,776 compositions on all examples would
take most of a day, so it is done by halving: all compositions on the first few examples of each
dataset, the best of them on more, and the best of those on all.

Is the best of the grid among those left out? The second table says how far the lowest loss that was
left out lies above that of the best composition, on the examples of that stage, in standard
deviations of what such a difference changes by when all examples are measured.

The file is a row for each composition: its levels, one digit for each vector, and its mean loss at
each stage that it reached. A run that was interrupted goes on with what the file holds.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

from benchmarks import machine

LEVELS = 6
STAGES = ("few", "more", "all")
DIGITS = 5
"""Digits of a loss in the file."""


class Stage(NamedTuple):
    """A stage of the halving: how many compositions, on how many examples of each dataset."""

    name: str
    compositions: int
    examples: int


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the grid, keep it as a file, and print its best compositions."""
    options = machine.begin(
        __file__, __doc__, argv, rounds=1,
        levels={"type": int, "default": LEVELS, "help": f"values per ω (default: {LEVELS})"},
        few={"type": int, "default": 6, "help": "examples of the first stage (default: 6)"},
        out={"type": Path, "default": Path(__file__).with_suffix(".csv"), "help": "the table"},
        demo={"type": Path, "default": machine.DEMO, "help": "a folder like the demo's"},
    )  # fmt: skip
    size = options.levels ** len(_names(options.demo))
    stages = [
        Stage(STAGES[0], size, options.few),
        Stage(STAGES[1], max(2, size // 8), 4 * options.few),
        Stage(STAGES[2], max(2, size // 80), 10**9),
    ]
    table = _read(options.out)
    for before, stage in zip([None, *stages], stages, strict=False):
        _measure(options, table, stage, _best(table, before, stage) if before else None)
    _show(options, table, stages)


def _names(demo: Path) -> list[str]:
    return sorted(file.parent.name for file in (demo / "data").glob("*/validation.jsonl"))


def _best(table: dict[str, dict[str, float]], before: Stage, stage: Stage) -> list[str]:
    """Returns the compositions that a stage measures: the best ones of the stage before it."""
    measured = [levels for levels, row in table.items() if before.name in row]
    return sorted(measured, key=lambda levels: table[levels][before.name])[: stage.compositions]


def _measure(
    options: Any, table: dict[str, dict[str, float]], stage: Stage, wanted: list[str] | None
) -> None:
    """Measures what a stage lacks, and writes the table after every 100 compositions."""
    names = _names(options.demo)
    digits = [str(level) for level in range(options.levels)]
    # Each neighbour differs in one ω, and a LiveModel computes no more than what has changed.
    wanted = wanted or ["".join(each) for each in itertools.product(digits, repeat=len(names))]
    missing = [levels for levels in wanted if stage.name not in table.get(levels, {})]
    if not missing:
        return
    loss = _loss_of(options, names, stage.examples)
    for done, levels in enumerate(missing, 1):
        omegas = [int(level) / (options.levels - 1) for level in levels]
        table.setdefault(levels, {})[stage.name] = round(loss(omegas), DIGITS)
        if done % 100 == 0 or done == len(missing):
            _write(options.out, table)
            print(f"{stage.name}: {done} of {len(missing)}", flush=True)


def _loss_of(options: Any, names: list[str], examples: int) -> Callable[[list[float]], float]:
    """Returns a function ω -> mean validation loss over the datasets."""
    from corpus import read_datasets
    from evaluation.loss import losses
    from evaluation.model import load
    from evaluation.prepared import prepare
    from merging import Checkpoint, LiveModel, Recipe, in_memory, open_vector

    base = options.demo / "base"
    folders = {name: options.demo / name for name in names}
    checkpoint = Checkpoint(base)
    loaded = load(base, checkpoint=checkpoint)
    vectors = {name: open_vector(folder, checkpoint, name) for name, folder in folders.items()}
    live = LiveModel(loaded.module, in_memory(checkpoint), vectors, loaded.views)
    data = read_datasets(options.demo / "data", "validation")
    prepared = prepare({name: data[name] for name in names}, loaded.tokenizer, limit=examples)

    def loss(omegas: list[float]) -> float:
        live.apply(Recipe.compose(base, folders, dict(zip(names, omegas, strict=True))))
        found = [each.value for each in losses(loaded.module, prepared)]
        return sum(found) / len(found)

    return loss


def _read(file: Path) -> dict[str, dict[str, float]]:
    """Returns levels -> stage -> mean loss, as an earlier run wrote it; empty without a file."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {
            row.pop("levels"): {stage: float(loss) for stage, loss in row.items() if loss}
            for row in csv.DictReader(lines)
        }


def _write(file: Path, table: dict[str, dict[str, float]]) -> None:
    from plumbing.atomic import write_whole

    def lines() -> Iterator[str]:
        yield "levels,few,more,all"
        for levels, row in sorted(table.items()):
            yield ",".join([levels, *(f"{row[s]}" if s in row else "" for s in STAGES)])

    write_whole(file, "\n".join(lines()) + "\n")


def _show(options: Any, table: dict[str, dict[str, float]], stages: Sequence[Stage]) -> None:
    """Print the best compositions, and how sure it is that no better one was left out."""
    names = _names(options.demo)
    last = {levels: row for levels, row in table.items() if "all" in row}
    best = sorted(last, key=lambda levels: last[levels]["all"])
    rows = [
        [*(f"{int(level) / (options.levels - 1):g}" for level in levels), f"{last[levels]['all']}"]
        for levels in best[:10]
    ]
    machine.show([*names, "mean validation loss"], rows)
    rows = []
    for stage, following in itertools.pairwise(stages):
        kept = set(_best(table, stage, following))
        left = [
            row[stage.name]
            for levels, row in table.items()
            if stage.name in row and levels not in kept
        ]
        moved = [row[stage.name] - row["all"] for row in last.values()]
        above = min(left, default=math.inf) - table[best[0]][stage.name]
        rows.append([stage.name, f"{len(kept):,}", f"{above:.4f}", f"{above / stdev(moved):.1f}"])
    machine.show(["left out after", "kept", "nats above the best", "standard deviations"], rows)


if __name__ == "__main__":
    main()
