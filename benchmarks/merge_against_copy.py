"""Claim: merging takes at most 1.3 times as long as reading the same bytes and writing the same bytes.

    python -m benchmarks.merge_against_copy [--size 1.2B] [--rounds 5]

In one process, with imports done and the page cache warm: opening a recipe of a base and five experts and export(),
against a plain copy (benchmarks.copying) that reads all inputs into a reused buffer and writes as many bytes to a new
file, flushed. The copy runs with one thread, and with one for each core; and once more with one thread that writes past
the page cache, as the export does. Of the export's time it is told what its stages took: until the last piece was
computed, until the last stretch was on the disk and read back from there, and the rest, manifest and headers. What all
took of the processors is told too.
"""

import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import copying, machine, shapes
from merging.recipe import read_recipe

EXPERTS = 5
STAGES = ("write", "read back", "verify")


def main(argv: Sequence[str] | None = None) -> None:
    """Run all in turn, and print a row for each."""
    options = machine.begin(__file__, __doc__, argv, rounds=5, size="0.5B")
    stages: list[dict[str, float]] = []
    with shapes.checkpoints(options.size, EXPERTS, options.weights) as folder:
        recipe, out = shapes.recipe(folder, EXPERTS), folder / "out"
        files = shapes.files(folder, EXPERTS)
        contenders = {"export": partial(_export, recipe, out, stages)}
        for threads in copying.workers():
            contenders[f"copy, threads: {threads}"] = partial(_copy, files, out, threads)
        if hasattr(os, "O_DIRECT"):  # macOS has none
            contenders["copy past the page cache"] = partial(_copy, files, out, 1, past_cache=True)
        machine.in_turn(1, contenders)  # warms the page cache and what torch loads at first use
        stages.clear()
        found = machine.in_turn(options.rounds, contenders)
    read, written = (
        shapes.nbytes(options.size, EXPERTS + 1) / 1e9,
        shapes.nbytes(options.size, 1) / 1e9,
    )
    print(f"{read:.2f} GB read, {written:.2f} GB written\n")
    rows = [
        [
            "export",
            machine.seconds(found["export"]).text(),
            "",
            "",
            machine.cpu(found["export"]).text(),
            "",
        ]
    ]
    for stage in STAGES:
        rows.append(
            [
                f"  of it: {stage}",
                machine.spread([one[stage] for one in stages]).text(),
                "",
                "",
                "",
                "",
            ]
        )
    for name, costs in list(found.items())[1:]:
        ratio, worked = (
            machine.ratio(found["export"], costs),
            machine.ratio(found["export"], costs, "cpu"),
        )
        wall = [machine.seconds(costs).text(), ratio.text(), machine.bar(ratio.median, 1.3)]
        rows.append([name, *wall, machine.cpu(costs).text(), worked.text()])
    machine.show(
        ["what", "seconds", "export / copy", "bar", "of processors", "export / copy"], rows
    )


def _export(recipe: Path, out: Path, stages: list[dict[str, float]]) -> machine.Cost:
    from merging import export, open_recipe

    seen: dict[str, list[float]] = {"write": [], "verify": []}

    def whole() -> None:
        read = read_recipe(recipe)
        inputs = open_recipe(read)
        export(
            read,
            *inputs,
            out,
            progress=lambda stage, done, total: seen[stage].append(time.perf_counter()),
        )

    os.sync()
    start = time.perf_counter()
    cost = machine.timed(whole)
    wrote, flushed = seen["write"][-1] - start, seen["verify"][0] - start
    stages.append({"write": wrote, "read back": flushed - wrote, "verify": cost.seconds - flushed})
    shutil.rmtree(out)
    return cost


def _copy(
    files: Sequence[Path], out: Path, threads: int, *, past_cache: bool = False
) -> machine.Cost:
    os.sync()
    cost = machine.timed(lambda: copying.copy(files, out, threads, past_cache=past_cache))
    out.unlink()
    return cost


if __name__ == "__main__":
    main()
