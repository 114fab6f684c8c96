"""Claim: a merge method holds its vectors and at most one more copy of a tensor.

    python -m benchmarks.method_memory [--method NAME ...] [--rows 4096] [--rounds 1]

Runs each method's `combine` on three vectors of one square matrix in a process of its own and prints by how many
float32 copies of the matrix the process grew beyond the vectors and the base (the kernel's ru_maxrss), and the time.
Methods that decompose a matrix are measured on a smaller one, for that takes minutes at 4096.
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

    from merging.methods._values import Site

VECTORS = 3
SLOW = ("tsv", "iso_c", "iso_cts", "regmean")
SPARSE = {"density": 0.4, "select_topk": 0.4, "epsilon": 0.15, "t": 0.3}


def main(argv: Sequence[str] | None = None) -> None:
    """Print one row for each method."""
    method = {
        "nargs": "+",
        "default": [],
        "metavar": "NAME",
        "help": "these methods only; see dem methods",
    }
    rows = {"type": int, "default": 4096, "help": "rows and columns of the matrix (4096)"}
    options = machine.begin(__file__, __doc__, argv, rounds=1, method=method, rows=rows)
    found = []
    for name in options.method or _names():
        size = min(1024, options.rows) if name in SLOW else options.rows
        runs = [_run(name, size) for _ in range(options.rounds)]
        copies, seconds = (machine.spread(column) for column in zip(*runs, strict=True))
        found.append([name, str(size), copies.text(), seconds.text()])
    machine.show(["method", "rows", "copies", "seconds"], found)


def _names() -> list[str]:
    """Asked of another process: what this one holds would be in every child's peak."""
    words = [sys.executable, "-c", "from merging import method; print(*method.names())"]
    return subprocess.run(
        words, check=True, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True
    ).stdout.split()


def _run(name: str, rows: int) -> tuple[float, float]:
    """Copies and seconds of one method, in a process of its own."""
    words = [
        sys.executable,
        "-c",
        f"from benchmarks.method_memory import measure; measure({name!r}, {rows})",
    ]
    done = subprocess.run(words, check=True, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True)
    copies, seconds = done.stdout.split()
    return float(copies), float(seconds)


def measure(name: str, rows: int) -> None:
    """Print the copies and the seconds of one method in this process."""
    import torch

    from merging.methods import _contract as method

    torch.set_num_threads(1)
    known = {param.name: param for param in method.load(name).parameters}
    given = {
        key: value
        for key, value in SPARSE.items()
        if key in known and not (key == "epsilon" and "ram" in name)
    }
    least, most = method.load(name).vectors
    count = min(max(least, VECTORS), most or VECTORS)
    module, arguments = method.load(name), method.load(name).arguments(given, count)
    small, site = _inputs(name, count, 64)
    module.combine(
        small, torch.ones(count), site, **arguments
    )  # loads what torch loads at first use
    stack, site = _inputs(name, count, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    module.combine(stack, torch.ones(count), site, **arguments)
    seconds = time.monotonic() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * machine.MAXRSS
    print(grown / (rows * rows * 4), seconds)


def _inputs(name: str, count: int, rows: int) -> tuple["Tensor", "Site"]:
    """Vectors of a square matrix, and where it stands; what is there at the end is all that was ever held."""
    import torch

    from merging.methods import _contract as method
    from merging.methods._values import Site, Statistic

    known = []
    for _ in range(count if method.load(name).statistics else 0):
        values = torch.rand(rows, rows)
        if method.load(name).statistics == "gram":
            values = values[0].outer(values[0])
            values.diagonal().add_(1)
        known.append(Statistic(values, float(values.norm())))
    stack = torch.empty(count, rows, rows).normal_(0, 0.02)
    return stack, Site(
        "w", torch.empty(rows, rows).normal_(0, 0.02), 0.5, tuple(range(count)), tuple(known)
    )


if __name__ == "__main__":
    main()
