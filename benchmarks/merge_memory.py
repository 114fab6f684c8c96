"""Claim: `dem merge` needs less than 400 MB, whatever the sizes and numbers of its models.

    python -m benchmarks.merge_memory [--size 1.2B] [--vectors 1 2 5 10] [--rounds 3]

Merges in cold processes: a base and five experts of each size up to --size, and several numbers of
experts of the smallest size. Prints the time and the peak resident memory, which is the kernel's
ru_maxrss. It does not include the page cache, because files are read and never mapped.
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
"""How much larger the largest peak of all sizes may be than the smallest, as a share of it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each size and each number of vectors, and print a row for each."""
    numbers = {
        "type": int,
        "nargs": "+",
        "default": [1, 2, 5, 10],
        "help": "numbers of experts (default: 1 2 5 10)",
    }
    options = machine.begin(__file__, __doc__, argv, rounds=3, size="0.5B", vectors=numbers)
    sizes = shapes.up_to(options.size)
    cases: dict[tuple[str, int], list[machine.Cost]] = {}
    # One size after the other, so that only one is on the disk at a time.
    for size in sizes:
        counts = sorted({EXPERTS, *options.vectors}) if size == sizes[0] else [EXPERTS]
        with shapes.checkpoints(size, max(counts), options.weights) as folder:
            contenders = {
                str(count): partial(_merge, shapes.recipe(folder, count), folder / "out")
                for count in counts
            }
            for name, costs in machine.in_turn(options.rounds, contenders).items():
                cases[size, int(name)] = costs
    columns = ["parameters", "vectors", "GB read", "GB written", "seconds", "peak MB", "target"]
    machine.show(columns, [_row(size, count, costs) for (size, count), costs in cases.items()])
    if len(sizes) == 1:
        return
    peaks = [machine.peak_mb(cases[size, EXPERTS]).median for size in sizes]
    growth = max(peaks) / min(peaks) - 1
    target = machine.target(growth * 100, SAME * 100, " %")
    peaks_of = f"peaks of {', '.join(sizes)} with {EXPERTS} vectors"
    print(f"{peaks_of}: {growth:.1%} apart, target {target}\n")


def _merge(recipe: Path, out: Path) -> machine.Cost:
    # What an earlier run left unwritten would otherwise be flushed within this one's time.
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
        machine.target(peak.median, MOST_MB, " MB"),
    ]
    return [f"{shapes.parameters(size):,}", str(count), *moved, *shown]


if __name__ == "__main__":
    main()
