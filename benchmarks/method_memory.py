"""Claim: a merge method holds its vectors and at most one more copy of a tensor.

    python -m benchmarks.method_memory [--method NAME] [--rows 4096]

Runs each method's `combine` on three vectors of one square matrix in a process of its own and prints by how many
float32 copies of the matrix the process grew beyond the vectors and the base (the kernel's ru_maxrss), and the time.
Methods of singular vectors are measured on a smaller matrix, for a decomposition takes minutes at 4096.
"""

import argparse
import resource
import subprocess
import sys
import time

VECTORS = 3
SVD = ("tsv", "iso_c", "iso_cts")
SPARSE = {"density": 0.4, "select_topk": 0.4, "epsilon": 0.15, "t": 0.3}


def main() -> None:
    """Print one row for each method."""
    from merging import method

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--method", choices=method.names(), action="append")
    parser.add_argument("--rows", type=int, default=4096)
    options = parser.parse_args()
    print(f"{'method':<18} {'rows':>6} {'copies':>7} {'seconds':>8}")
    for name in options.method or method.names():
        rows = 1024 if name in SVD else options.rows
        words = [sys.executable, "-c", f"from benchmarks.method_memory import measure; measure({name!r}, {rows})"]
        print(
            f"{name:<18} {rows:>6} {subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()}"
        )


def measure(name: str, rows: int) -> None:
    """Print the copies and the seconds of one method in this process."""
    import torch

    from merging import method
    from merging.method import Site

    torch.set_num_threads(1)
    known = {param.name: param for param in method.parameters(name)}
    given = {key: value for key, value in SPARSE.items() if key in known and not (key == "epsilon" and "ram" in name)}
    least, most = method.span(name)
    count = min(max(least, VECTORS), most or VECTORS)
    module, arguments = method.load(name), method.arguments(name, given, count)
    small = torch.randn(count, 64, 64)
    site = Site("w", small[0].clone(), 0.5, tuple(range(count)))
    module.combine(small, torch.ones(count), site, **arguments)  # loads what torch loads at first use
    stack = torch.empty(count, rows, rows).normal_(0, 0.02)
    site = site._replace(base=torch.empty(rows, rows).normal_(0, 0.02))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    module.combine(stack, torch.ones(count), site, **arguments)
    seconds = time.monotonic() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{grown / (rows * rows * 4):>7.2f} {seconds:>8.2f}")


if __name__ == "__main__":
    main()
