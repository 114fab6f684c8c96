"""Claim: the memory of `dem merge` does not grow with the model.

    python -m benchmarks.merge_memory [--size 1.2B] [--experts 5]

Makes a base and experts with random weights, merges them in a process of its own, and prints that process's peak
resident memory (the kernel's ru_maxrss; files are read, never mapped, so the page cache is not in it), and the time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.shapes import SIZES, parameters


def main() -> None:
    """Measure each size asked for and print one row for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--experts", type=int, default=5)
    options = parser.parse_args()
    print(f"{'parameters':>14} {'experts':>8} {'GB read':>8} {'GB written':>11} {'peak MB':>8} {'seconds':>8}")
    for size in options.size or ["0.1B", "1.2B"]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            subprocess.run([sys.executable, "-m", "benchmarks.shapes", folder, size, str(options.experts)], check=True)
            peak, seconds = run(folder / "recipe.yml", folder / "out")
            written = parameters(size) * 2 / 1e9
            read = (options.experts + 1) * written
            row = f"{parameters(size):>14,} {options.experts:>8} {read:>8.2f} {written:>11.2f}"
            print(f"{row} {peak / 1e6:>8.0f} {seconds:>8.1f}", flush=True)


def run(recipe: Path, out: Path) -> tuple[int, float]:
    """One merge as a cold process: its peak resident memory in bytes and its wall time in seconds."""
    begin = time.monotonic()
    process = subprocess.Popen([Path(sys.executable).parent / "dem", "merge", recipe, out], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"dem merge ended with status {status}")
    return usage.ru_maxrss * 1024, time.monotonic() - begin


if __name__ == "__main__":
    main()
