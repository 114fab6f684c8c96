"""Claim: `import merging` takes less than 2 s and `dem --help` less than 0.5 s.

    python -m benchmarks.start [--rounds 5]

Cold processes run in turn, with the files that they load in the page cache. Rows for Python alone
and for torch alone show how much of the time is theirs.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import machine

DEM = Path(sys.executable).parent / "dem"
COMMANDS: dict[str, tuple[list[str | Path], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import torch": ([sys.executable, "-c", "import torch"], None),
    "import merging": ([sys.executable, "-c", "import merging"], 2.0),
    "dem --help": ([DEM, "--help"], 0.5),
    "dem methods": ([DEM, "methods"], None),
}
"""Label -> command line, and the target in seconds; None if it is shown for comparison only."""


def main(argv: Sequence[str] | None = None) -> None:
    """Start each command in turn, and print its time and memory."""
    options = machine.begin(__file__, __doc__, argv, rounds=5)
    contenders = {name: partial(machine.cold, words) for name, (words, _) in COMMANDS.items()}
    machine.in_turn(1, contenders)  # warms the page cache
    rows = []
    for name, costs in machine.in_turn(options.rounds, contenders).items():
        took, most = machine.seconds(costs), COMMANDS[name][1]
        target = "" if most is None else machine.target(took.median, most, " s")
        rows.append([name, took.text(), machine.peak_mb(costs).text(".0f"), target])
    machine.show(["command", "seconds", "peak MB", "target"], rows)


if __name__ == "__main__":
    main()
