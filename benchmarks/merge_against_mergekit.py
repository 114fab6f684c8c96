"""Claim: `dem merge` takes at most a fifth of the time and a fifteenth of the memory of mergekit.

    python -m benchmarks.merge_against_mergekit [--size 1.2B] [--rounds 3]

Both merge the same recipe (task_arithmetic, bfloat16, a base and five experts) as cold processes, in turn, until the
result is safe on the disk: `dem merge` flushes, verifies and writes its manifest by itself, mergekit's files are
flushed after it within its time. Before each run all inputs are read once, so that both tools find in the page cache
what fits there. Peak memory is the kernel's ru_maxrss. mergekit maps its inputs, and what is mapped
and resident counts in it; the row below leaves it out (the most anonymous memory, sampled 50 times a second).
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import copying, machine, shapes

MERGEKIT = machine.ROOT / ".venv-mergekit"
EXPERTS = 5
OURS, THEIRS = "dem merge", "mergekit-yaml"


def main(argv: Sequence[str] | None = None) -> None:
    """Run both, and print a row for each thing measured."""
    options = machine.begin(__file__, __doc__, argv, rounds=3, size="0.5B")
    theirs = MERGEKIT / "bin" / "mergekit-yaml"
    if not theirs.exists():
        raise SystemExit(f"{theirs} is not there. Make it: make .venv-mergekit/made")
    with shapes.checkpoints(options.size, EXPERTS, options.weights) as folder:
        recipe, out = shapes.recipe(folder, EXPERTS), folder / "out"
        # No tokenizer comes with these weights, and a bar of progress is no part of a merge.
        plain = ["--no-copy-tokenizer", "--quiet"]
        inputs = shapes.files(folder, EXPERTS)
        contenders = {
            OURS: lambda: _merge(
                [Path(sys.executable).parent / "dem", "merge", recipe, out],
                inputs,
                out,
                flush=False,
            ),
            THEIRS: lambda: _merge([theirs, *plain, recipe, out], inputs, out, flush=True),
        }
        found = machine.in_turn(options.rounds, contenders)
    print(f"{_inputs(options.size)}; {_versions()}\n")
    rows = [
        _row("seconds until on the disk", found, "seconds", 1, ".2f", 1 / 5),
        _row("peak resident MB", found, "peak", 1e6, ".0f", 1 / 15),
        _row("of it without mapped files, MB", found, "own", 1e6, ".0f", None),
    ]
    machine.show(["what", OURS, THEIRS, "ratio", "bar at 1.2B"], rows)


def _merge(words: list[str | Path], inputs: list[Path], out: Path, *, flush: bool) -> machine.Cost:
    copying.copy(inputs, None, 1)
    os.sync()  # what was written before is not this one's to flush
    cost = machine.cold(words, flush=out if flush else None)
    shutil.rmtree(out)
    return cost


def _row(
    what: str,
    found: dict[str, list[machine.Cost]],
    of: str,
    unit: float,
    form: str,
    most: float | None,
) -> list[str]:
    shown = [
        machine.spread([getattr(cost, of) / unit for cost in found[name]]).text(form)
        for name in (OURS, THEIRS)
    ]
    ratio = machine.ratio(found[OURS], found[THEIRS], of)
    bar = (
        "" if most is None else f"≤ 1/{1 / most:.0f}: {'met' if ratio.median <= most else 'missed'}"
    )
    return [
        what,
        *shown,
        f"1/{1 / ratio.median:.1f} (1/{1 / ratio.low:.1f}–1/{1 / ratio.high:.1f})",
        bar,
    ]


def _inputs(size: str) -> str:
    read, written = shapes.nbytes(size, EXPERTS + 1) / 1e9, shapes.nbytes(size, 1) / 1e9
    return f"{shapes.parameters(size):,} parameters × (1 + {EXPERTS}): {read:.2f} GB read, {written:.2f} GB written"


def _versions() -> str:
    found = [
        folder.name.removesuffix(".dist-info")
        for folder in MERGEKIT.glob("lib/*/site-packages/*.dist-info")
    ]
    return ", ".join(sorted(name for name in found if name.startswith(("mergekit-", "torch-"))))


if __name__ == "__main__":
    main()
