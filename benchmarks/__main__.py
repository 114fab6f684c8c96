"""Runs the benchmarks, each in its own process, on weights that are made once.

    python -m benchmarks [--only start live_line] [--size 1.2B] [--rounds 3]

A process of its own, because the peak memory that the kernel reports for a process covers its whole
life: it would include what earlier benchmarks needed.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.shapes import SIZES

WEIGHTED = (
    "merge_against_mergekit",
    "merge_against_copy",
    "merge_memory",
    "compose_against_copy",
    "mounted_against_composed",
    "geometry_against_read",
    "digests_on_the_way",
    "half_products",
    "adapter_memory",
    "half_training",
)
"""The benchmarks that take --size and --weights."""
OTHERS = {
    "start": (),
    "live_line": (),
    "sampler_against_step": (),
    "trainer_against_loop": (),
    "packing_against_padding": (),
    "method_memory": ("--rows", "2048"),
    "device": (),
}
"""The other benchmarks, with the options that they get here."""
BY_HAND = ("other_tools", "trainer_against_sft")
"""Benchmarks that run by their own command only, because they need environments of their own."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run all benchmarks, or those of --only.

    Raises:
        SystemExit: a benchmark failed; the rest has run all the same.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*WEIGHTED, *OTHERS],
        metavar="NAME",
        default=[*WEIGHTED, *OTHERS],
    )
    parser.add_argument(
        "--size", choices=SIZES, default="0.5B", help="parameters of the model (default: 0.5B)"
    )
    parser.add_argument("--rounds", help="rounds of each benchmark (default: its own)")
    options = parser.parse_args(argv)
    failed = []
    with tempfile.TemporaryDirectory() as weights:
        for name in options.only:
            words = [sys.executable, "-m", f"benchmarks.{name}", *OTHERS.get(name, ())]
            words += ["--size", options.size, "--weights", weights] if name in WEIGHTED else []
            words += ["--rounds", options.rounds] if options.rounds else []
            # The rest still runs: one may fail only because memory or mergekit is missing.
            if subprocess.run(words, cwd=machine.ROOT).returncode:
                failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
