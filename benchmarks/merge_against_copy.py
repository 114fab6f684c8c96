"""Claim: merging takes at most 1.3 times as long as reading and writing the same bytes.

    python -m benchmarks.merge_against_copy [--size 1.2B] [--rounds 5]

In one process, after all imports and with a warm page cache: opening a recipe of a base and five
experts, and export(). Against it, a plain copy (benchmarks.copying) reads all inputs into a reused
buffer and writes as many bytes as the export to a new file, which is flushed. The copy runs with
one thread, with one thread per core, and once more with one thread that writes past the page cache,
as the export does.

The table also shows the CPU time, and how long each stage of the export took: "write" until the
last piece was computed, "read back" until the last stretch was on the disk and read back from
there, and "verify" for the rest, manifest and headers.
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
"""The stages of an export, in their order."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run all contenders in turn, and print a row for each."""
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
        # Warms the page cache, and makes torch load what it loads at first use.
        machine.in_turn(1, contenders)
        stages.clear()
        costs = machine.in_turn(options.rounds, contenders)
    sizes = [shapes.nbytes(options.size, copies) / 1e9 for copies in (EXPERTS + 1, 1)]
    print("{:.2f} GB read, {:.2f} GB written\n".format(*sizes))
    exports = costs["export"]
    clocks = machine.seconds(exports).text(), machine.cpu(exports).text()
    rows = [["export", clocks[0], "", "", clocks[1], ""]]
    for stage in STAGES:
        seconds = machine.spread([run[stage] for run in stages])
        rows.append([f"  stage: {stage}", seconds.text(), "", "", "", ""])
    for name, copies in list(costs.items())[1:]:
        wall, worked = machine.ratio(exports, copies), machine.ratio(exports, copies, "cpu")
        target = machine.target(wall.median, 1.3)
        clocks = machine.seconds(copies).text(), machine.cpu(copies).text()
        rows.append([name, clocks[0], wall.text(), target, clocks[1], worked.text()])
    columns = ["what", "seconds", "export / copy", "target", "CPU seconds", "CPU, export / copy"]
    machine.show(columns, rows)


def _export(recipe: Path, out: Path, stages: list[dict[str, float]]) -> machine.Cost:
    """Return the cost of one export, and append the seconds of its stages to `stages`."""
    from merging import export, open_recipe

    moments: dict[str, list[float]] = {"write": [], "verify": []}

    def progress(stage: str, done: int, total: int) -> None:
        moments[stage].append(time.perf_counter())

    def whole() -> None:
        read = read_recipe(recipe)
        inputs = open_recipe(read)
        export(read, *inputs, out, progress=progress)

    # What an earlier run left unwritten would otherwise be flushed within this one's time.
    os.sync()
    start = time.perf_counter()
    cost = machine.timed(whole)
    wrote, flushed = moments["write"][-1] - start, moments["verify"][0] - start
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
