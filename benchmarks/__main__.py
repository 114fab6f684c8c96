"""Runs the benchmarks, each in its own process, on weights that are made once.

    python -m benchmarks [--only start live_line] [--size 1.2B] [--rounds 3]

A process of its own, because the peak memory that the kernel reports for a process covers its whole
life: it would include what earlier benchmarks needed.
"""

import argparse
import importlib.util
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
    "open_and_first_losses": (),
    "evaluation_against_forward": (),
    "questions_in_batches": (),
    "derivatives_of_adapters": (),
    "gradients_in_batches": (),
    "misfiled_examples": (),
    "predicted_against_measured": (),
    "factors_against_svd": (),
    "sampler_against_step": (),
    "trainer_against_loop": (),
    "packing_against_padding": (),
    "projection_against_dense": (),
    "method_memory": ("--rows", "2048"),
    "device": (),
}
"""The other benchmarks, with the options that they get here."""
ON_REAL = {
    "live_line": ("--demo", "{folder}", "--large", "none"),
    "mounted_against_composed": ("--demo", "{folder}"),
    "adapter_memory": ("--base", "{folder}/base"),
    "questions_in_batches": ("--demo", "{folder}", "--rounds", "1"),
    "derivatives_of_adapters": ("--demo", "{folder}"),
}
"""Benchmarks that run once more on the real demo, where the extra `real` is installed."""
BY_HAND = (
    "methods_against_mergekit",
    "other_tools",
    "trainer_against_sft",
    "store_against_bergson",
    "grid_of_demo",
    "linear_datamodels",
    "mixtures_compared",
    "planted_examples",
    "selections_compared",
)
"""Benchmarks that run by their own command only: they need environments of their own, or hours."""


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
    failed, real = [], _real_demo() if ON_REAL.keys() & set(options.only) else ""
    with tempfile.TemporaryDirectory() as weights:
        for name in options.only:
            words = [sys.executable, "-m", f"benchmarks.{name}", *OTHERS.get(name, ())]
            words += ["--size", options.size, "--weights", weights] if name in WEIGHTED else []
            again = [*words[:3], *(word.format(folder=real) for word in ON_REAL.get(name, ()))]
            for each in (words, again) if real and name in ON_REAL else (words,):
                rounds = ["--rounds", options.rounds] if options.rounds else []
                # The rest still runs: one may fail only because memory or mergekit is missing.
                if subprocess.run([*each, *rounds], cwd=machine.ROOT).returncode:
                    failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _real_demo() -> str:
    """Return the folder of the real demo; "" where what makes its base is not installed."""
    if importlib.util.find_spec("gguf") is None:
        return ""
    words = [sys.executable, "-m", "workbench.cli", "real", "path"]
    done = subprocess.run(words, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print("The real demo is left out, because its base cannot be had.")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
