"""Claim: the memory of `dem merge` stays under 400 MB, and grows neither with the model nor with its vectors.

    python -m benchmarks.merge_memory [--size 1.2B] [--vectors 1 2 5 10] [--rounds 3]

Merges as cold processes, of all sizes up to the one given (a base and five experts) and, at the smallest of them, of
several numbers of experts; prints the peak resident memory (the kernel's ru_maxrss; files are read, never mapped, so
the page cache is not in it) and the time.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import machine, shapes

EXPERTS = 5
MOST_MB = 400
SAME = 0.10
"""How far the peaks of the sizes may be apart, as a share of the least."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each size and each number of vectors, and print one row for it."""
    numbers = {
        "type": int,
        "nargs": "+",
        "default": [1, 2, 5, 10],
        "help": "numbers of experts (1 2 5 10)",
    }
    options = machine.begin(__file__, __doc__, argv, rounds=3, size="0.5B", vectors=numbers)
    sizes = shapes.up_to(options.size)
    cases: dict[tuple[str, int], list[machine.Cost]] = {}
    for size in sizes:  # one after the other, so that only one size is on the disk at a time
        counts = sorted({EXPERTS, *options.vectors}) if size == sizes[0] else [EXPERTS]
        with shapes.checkpoints(size, max(counts), options.weights) as folder:
            contenders = {
                str(count): partial(_merge, shapes.recipe(folder, count), folder / "out")
                for count in counts
            }
            for name, costs in machine.in_turn(options.rounds, contenders).items():
                cases[size, int(name)] = costs
    columns = ["parameters", "vectors", "GB read", "GB written", "seconds", "peak MB", "bar"]
    machine.show(columns, [_row(size, count, costs) for (size, count), costs in cases.items()])
    if len(sizes) == 1:
        return
    peaks = [machine.peak_mb(cases[size, EXPERTS]).median for size in sizes]
    growth = max(peaks) / min(peaks) - 1
    said = machine.bar(growth * 100, SAME * 100, " %")
    print(f"peaks of {', '.join(sizes)} with {EXPERTS} vectors: {growth:.1%} apart, bar {said}\n")


def _merge(recipe: Path, out: Path) -> machine.Cost:
    os.sync()
    cost = machine.cold([Path(sys.executable).parent / "dem", "merge", recipe, out])
    shutil.rmtree(out)
    return cost


def _row(size: str, count: int, costs: Sequence[machine.Cost]) -> list[str]:
    peak = machine.peak_mb(costs)
    moved = [f"{shapes.nbytes(size, copies) / 1e9:.2f}" for copies in (count + 1, 1)]
    shown = [
        machine.seconds(costs).text(),
        peak.text(".0f"),
        machine.bar(peak.median, MOST_MB, " MB"),
    ]
    return [f"{shapes.parameters(size):,}", str(count), *moved, *shown]


if __name__ == "__main__":
    main()
