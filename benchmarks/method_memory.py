"""Claim: beyond its vectors and the base, a merge method holds at most one copy of a tensor.

    python -m benchmarks.method_memory [--method NAME ...] [--rows 4096] [--rounds 1]

Runs each method's `combine` on three vectors of one square matrix, each method in its own process.
Prints the time, and how much memory the process needed beyond the vectors and the base (growth of
the kernel's ru_maxrss), in float32 copies of the matrix. Methods that decompose a matrix are
measured on a smaller one, because a decomposition takes minutes at 4096 rows.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks import machine

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._contract import Method
    from merging.methods._values import Site

VECTORS = 3
"""Vectors per method, if it takes that many."""
SLOW = ("tsv", "iso_c", "iso_cts", "regmean")
"""Methods that decompose a matrix."""
SPARSE = {"density": 0.4, "select_topk": 0.4, "epsilon": 0.15, "t": 0.3}
"""Parameters, for the methods that have them, with which a method has entries to drop."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print one row for each method."""
    method = {
        "nargs": "+",
        "default": [],
        "metavar": "NAME",
        "help": "only these methods (default: all; see dem methods)",
    }
    rows = {"type": int, "default": 4096, "help": "rows and columns (default: 4096)"}
    options = machine.begin(__file__, __doc__, argv, rounds=1, method=method, rows=rows)
    table = []
    for name in options.method or _names():
        size = min(1024, options.rows) if name in SLOW else options.rows
        runs = [_run(name, size) for _ in range(options.rounds)]
        copies, seconds = (machine.spread(column) for column in zip(*runs, strict=True))
        table.append([name, str(size), copies.text(), seconds.text()])
    machine.show(["method", "rows", "copies", "seconds"], table)


def _names() -> list[str]:
    """Return the names of all methods.

    Another process imports them: torch's memory in this one would be in the peak of every child.
    """
    code = "from merging.methods._contract import names; print(*names())"
    words = [sys.executable, "-c", code]
    return subprocess.run(
        words, check=True, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True
    ).stdout.split()


def _run(name: str, rows: int) -> tuple[float, float]:
    """Return copies and seconds of one method, measured in its own process."""
    words = [
        sys.executable,
        "-c",
        f"from benchmarks.method_memory import measure; measure({name!r}, {rows})",
    ]
    done = subprocess.run(words, check=True, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True)
    copies, seconds = done.stdout.split()
    return float(copies), float(seconds)


def measure(name: str, rows: int) -> None:
    """Measure one method in this process, and print its copies and seconds."""
    import torch

    from merging.methods._contract import load

    torch.set_num_threads(1)
    method = load(name)
    names = {param.name for param in method.parameters}
    # The epsilon of ram and ramplus_tl is another thing: a threshold of magnitude.
    settings = {
        key: value
        for key, value in SPARSE.items()
        if key in names and not (key == "epsilon" and "ram" in name)
    }
    least, most = method.vectors
    count = min(max(least, VECTORS), most or VECTORS)
    arguments = method.arguments(settings, count)
    # A small run first, so that what torch loads at first use is not counted.
    small, site = _inputs(method, count, 64)
    method.combine(small, torch.ones(count), site, **arguments)
    stack, site = _inputs(method, count, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    method.combine(stack, torch.ones(count), site, **arguments)
    seconds = time.monotonic() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * machine.MAXRSS
    print(grown / (rows * rows * 4), seconds)


def _inputs(method: "Method", count: int, rows: int) -> tuple["Tensor", "Site"]:
    """Return `count` random vectors of a square matrix, and the site with its base and statistics.

    Random values are drawn in place: a temporary copy would raise the peak before the measurement.
    """
    import torch

    from merging.methods._values import Site, Statistic

    statistics = []
    for _ in range(count if method.statistics else 0):
        values = torch.rand(rows, rows)
        if method.statistics == "gram":
            # A Gram matrix must be symmetric and positive definite.
            values = values[0].outer(values[0])
            values.diagonal().add_(1)
        statistics.append(Statistic(values, float(values.norm())))
    stack = torch.empty(count, rows, rows).normal_(0, 0.02)
    base = torch.empty(rows, rows).normal_(0, 0.02)
    return stack, Site("w", base, 0.5, tuple(range(count)), tuple(statistics))


if __name__ == "__main__":
    main()
