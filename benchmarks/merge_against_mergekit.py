"""Claim: `dem merge` takes at most a fifth of the time and a fifteenth of the memory of mergekit.

    python -m benchmarks.merge_against_mergekit [--size 1.2B] [--rounds 3]

Both tools merge the same recipe (task_arithmetic, bfloat16, a base and five experts) in cold
processes, in turn, until the result is safe on the disk. `dem merge` flushes, verifies and writes
its manifest itself; mergekit's files are flushed afterwards, and that counts in its time. Before
each run all inputs are read once, so that both tools find in the page cache what fits there.

Peak memory is the kernel's ru_maxrss. mergekit memory-maps its inputs, and ru_maxrss counts mapped
pages that are resident. The row below it excludes them: it is the peak of the anonymous memory,
sampled 50 times per second.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import copying, machine, shapes

MERGEKIT = machine.ROOT / ".venv-mergekit"
EXPERTS = 5
OURS, THEIRS = "dem merge", "mergekit-yaml"


def main(argv: Sequence[str] | None = None) -> None:
    """Run both tools in turn, and print a row for time and for each kind of memory.

    Raises:
        SystemExit: mergekit is not installed in .venv-mergekit, or one of the tools failed.
    """
    options = machine.begin(__file__, __doc__, argv, rounds=3, size="0.5B")
    check_mergekit()
    with shapes.checkpoints(options.size, EXPERTS, options.weights) as folder:
        both = contenders(shapes.recipe(folder, EXPERTS), shapes.files(folder, EXPERTS))
        costs = machine.in_turn(options.rounds, both)
    print(f"{inputs_text(options.size)}\n")
    rows = [
        _row("seconds until on the disk", costs, "seconds", 1, ".2f", 1 / 5),
        _row("peak resident MB", costs, "peak", 1e6, ".0f", 1 / 15),
        _row("excluding memory-mapped files, MB", costs, "own", 1e6, ".0f", None),
    ]
    machine.show(["what", OURS, THEIRS, "ratio", "target at 1.2B"], rows)


def check_mergekit() -> None:
    """Raise a SystemExit that says how to install mergekit, if it is not."""
    if not (theirs := _mergekit()).exists():
        raise SystemExit(f"{theirs} does not exist. Install mergekit: make .venv-mergekit/made")


def _mergekit() -> Path:
    return MERGEKIT / "bin" / "mergekit-yaml"


def contenders(recipe: Path, inputs: list[Path]) -> dict[str, Callable[[], machine.Cost]]:
    """Return what merges a recipe with each tool in a cold process.

    Args:
        recipe: from shapes.recipe.
        inputs: the files that the tools read.
    """
    out = recipe.with_name("out")
    ours = [Path(sys.executable).parent / "dem", "merge", recipe, out]
    # These weights have no tokenizer, and drawing a progress bar is not part of merging.
    theirs = [_mergekit(), "--no-copy-tokenizer", "--quiet", recipe, out]
    return {
        OURS: lambda: _merge(ours, inputs, out, flush=False),
        THEIRS: lambda: _merge(theirs, inputs, out, flush=True),
    }


def _merge(
    words: Sequence[str | Path], inputs: list[Path], out: Path, *, flush: bool
) -> machine.Cost:
    copying.copy(inputs, None, 1)
    # What an earlier run left unwritten would otherwise be flushed within this one's time.
    os.sync()
    cost = machine.cold(words, flush=out if flush else None)
    shutil.rmtree(out)
    return cost


def _row(
    what: str,
    costs: dict[str, list[machine.Cost]],
    of: str,
    unit: float,
    form: str,
    most: float | None,
) -> list[str]:
    """Return a row of the table.

    Args:
        what: the label of the row.
        costs: those of both tools.
        of: the field of Cost.
        unit: how many of the field's unit make one of the row's.
        form: the format of the values.
        most: the target for the ratio; None if there is none.
    """
    shown = [
        machine.spread([getattr(cost, of) / unit for cost in costs[name]]).text(form)
        for name in (OURS, THEIRS)
    ]
    ratio = machine.ratio(costs[OURS], costs[THEIRS], of)
    # As fractions: "1/6.7" says more than "0.15".
    text = f"1/{1 / ratio.median:.1f} (1/{1 / ratio.low:.1f}–1/{1 / ratio.high:.1f})"
    return [what, *shown, text, "" if most is None else fraction_target(ratio.median, most)]


def fraction_target(value: float, most: float) -> str:
    """Return the text of a target as a fraction, which machine.target does not write."""
    return f"≤ 1/{1 / most:.0f}: {'met' if value <= most else 'missed'}"


def inputs_text(size: str) -> str:
    """Return what is read and written, and the versions that are compared."""
    read, written = shapes.nbytes(size, EXPERTS + 1) / 1e9, shapes.nbytes(size, 1) / 1e9
    models = f"{shapes.parameters(size):,} parameters × (1 + {EXPERTS})"
    return f"{models}: {read:.2f} GB read, {written:.2f} GB written; {_versions()}"


def _versions() -> str:
    # From the names of folders, because these packages are not importable from here.
    packages = [
        folder.name.removesuffix(".dist-info")
        for folder in MERGEKIT.glob("lib/*/site-packages/*.dist-info")
    ]
    return ", ".join(sorted(name for name in packages if name.startswith(("mergekit-", "torch-"))))


if __name__ == "__main__":
    main()
