"""Claim: an export that takes the digests of all its inputs takes at most 1.05 times as long.

    python -m benchmarks.digests_on_the_way [--size 1.2B] [--rounds 15]

In one process, after all imports and with a warm page cache: opening a recipe of a base and five
experts, and export(), with an empty cache of digests, so that every byte is hashed while it is
read. Against it, the same with all digests in the cache. Likewise for measure(), which has no
target. The last row is the digest of all inputs by itself, against reading and copying the files
(benchmarks.copying).
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import copying, machine, shapes
from merging.inputs import digest_cache
from merging.recipe import read_recipe

EXPERTS = 5
TARGET = 1.05


def main(argv: Sequence[str] | None = None) -> None:
    """Run all contenders in turn, and print a row for each."""
    options = machine.begin(__file__, __doc__, argv, rounds=15, size="0.5B")
    before = os.environ.get(digest_cache.VARIABLE)
    with shapes.checkpoints(options.size, EXPERTS, options.weights) as folder:
        recipe, cache = shapes.recipe(folder, EXPERTS), folder / "cache"
        files = shapes.files(folder, EXPERTS)
        # A file that was changed within this time is not kept in the cache.
        age = min(time.time_ns() - file.stat().st_ctime_ns for file in files)
        time.sleep(max(0, digest_cache.SETTLED - age) / 1e9)
        contenders = {
            f"{name}, {how}": partial(_timed, work, place)
            for name, work in (
                ("export", partial(_export, recipe, folder / "out")),
                ("geometry", partial(_measure, recipe)),
            )
            for how, place in (("taken", ""), ("known", str(cache)))
        }
        contenders["digests alone"] = partial(_timed, partial(_digests, files), "")
        contenders["read and copy"] = lambda: machine.timed(
            partial(copying.copy, files, None, copying.workers()[-1])
        )
        try:
            # Warms the page cache and the cache of digests.
            machine.in_turn(1, contenders)
            costs = machine.in_turn(options.rounds, contenders)
        finally:
            shutil.rmtree(cache, ignore_errors=True)
            if before is None:
                os.environ.pop(digest_cache.VARIABLE, None)
            else:
                os.environ[digest_cache.VARIABLE] = before
    print(f"{shapes.nbytes(options.size, EXPERTS + 1) / 1e9:.2f} GB read\n")
    rows = []
    for name, other, target in (
        ("export, taken", "export, known", TARGET),
        ("geometry, taken", "geometry, known", None),
        ("digests alone", "read and copy", None),
    ):
        wall = machine.ratio(costs[name], costs[other])
        worked = machine.ratio(costs[name], costs[other], "cpu")
        rows.append(
            [
                name,
                machine.seconds(costs[name]).text(),
                other,
                machine.seconds(costs[other]).text(),
                wall.text(),
                machine.target(wall.median, target) if target else "",
                worked.text(),
            ]
        )
    columns = ["what", "seconds", "against", "seconds", "ratio", "target", "ratio of CPU seconds"]
    machine.show(columns, rows)


def _timed(work: Callable[[], object], cache: str) -> machine.Cost:
    """Return the cost of some work with this folder as the cache of digests; empty for none."""
    os.environ[digest_cache.VARIABLE] = cache
    # What an earlier run left unwritten would otherwise be flushed within this one's time.
    os.sync()
    return machine.timed(work)


def _export(recipe: Path, out: Path) -> None:
    from merging import export, open_recipe

    read = read_recipe(recipe)
    export(read, *open_recipe(read), out)
    shutil.rmtree(out)


def _measure(recipe: Path) -> None:
    from merging import measure, open_recipe

    base, vectors = open_recipe(read_recipe(recipe))
    measure(base, vectors)
    # What the geometry has not read is read for the digests.
    assert base.digest and all(vector.digest for vector in vectors.values())


def _digests(files: Sequence[Path]) -> None:
    from merging import Checkpoint

    assert all(Checkpoint(file.parent).digest for file in files)


if __name__ == "__main__":
    main()
