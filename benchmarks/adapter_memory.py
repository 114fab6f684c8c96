"""Claim: a LoRA run on a base in bfloat16 takes at most 40 % of the memory of one in float32.

    python -m benchmarks.adapter_memory [--size 135M] [--length 64] [--rounds 3]
    python -m benchmarks.adapter_memory --base $(dem real base)

A model in bfloat16, with random weights unless a base is named, trains an adapter of rank 8 for
three updates, one row per update, in bfloat16 on the CPU. Each run has a process of its own. Its
peak is counted from what the process holds once everything is imported. The columns are values of
base_dtype. "float32" is how every run was before there was a choice; nf4 has 4 bits, and needs the
package bitsandbytes.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, shapes

if TYPE_CHECKING:
    from corpus import Example
    from training.stage import Stage

DTYPES = ("float32", "bfloat16", "nf4")


def main(argv: Sequence[str] | None = None) -> None:
    """Run all ways in turn, and print the peaks and the seconds of an update."""
    length = {"type": int, "default": 64, "help": "tokens of a row (default: 64)"}
    given = {"type": Path, "metavar": "FOLDER", "help": "a base in bfloat16, instead of --size"}
    options = machine.begin(
        __file__, __doc__, argv, rounds=3, size="135M", length=length, base=given
    )
    with tempfile.TemporaryDirectory() as scratch:
        base = options.base or random_base(options.size, options.weights or Path(scratch))
        costs = machine.in_turn(
            options.rounds,
            {dtype: lambda dtype=dtype: _run(base, dtype, options.length) for dtype in DTYPES},
        )
    rows = []
    for name, measured, of in (
        ("peak, MB", machine.peak_mb, "peak"),
        ("update, s", machine.seconds, "seconds"),
    ):
        ratios = [machine.ratio(costs[dtype], costs["float32"], of) for dtype in DTYPES[1:]]
        target = machine.target(ratios[0].median, 0.4) if of == "peak" else ""
        measures = [measured(costs[dtype]).text() for dtype in DTYPES]
        rows.append([name, *measures, *(ratio.text() for ratio in ratios), target])
    relative = [f"{dtype} / float32" for dtype in DTYPES[1:]]
    machine.show(["", *DTYPES, *relative, "target of bfloat16"], rows)


def random_base(size: str, weights: Path) -> Path:
    """Make a base of random weights with the demo's tokenizer."""
    with shapes.checkpoints(size, 0, weights) as folder:
        demo = machine.ROOT / "assets" / "demo" / "base"
        for file in demo.glob("tokenizer*"):
            shutil.copy(file, folder / "base")
        return folder / "base"


def _run(base: Path, dtype: str, length: int) -> machine.Cost:
    """Train in a process of its own; return its peak and the seconds of an update."""
    words = [
        sys.executable,
        "-c",
        f"from benchmarks.adapter_memory import train; train({str(base)!r}, {dtype!r}, {length})",
    ]
    done = subprocess.run(words, check=True, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True)
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return machine.Cost(seconds, peak=peak)


def train(base: str, dtype: str, length: int) -> None:
    """Train an adapter in this process; print its peak in bytes and the seconds of an update."""
    import resource

    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import psutil
    import torch
    import transformers  # noqa: F401

    from training.adapter import Lora
    from training.run.trainer import StageTrainer  # noqa: F401
    from training.stage import Stage

    torch.set_num_threads(1)
    stage = Stage(
        base=Path(base),
        examples=(row_of_digits(length),),
        steps=3,
        batch=1,
        lora=Lora(8),
        base_dtype=dtype,  # type: ignore[arg-type]
        max_length=length,
        device="cpu",
    )
    before = psutil.Process().memory_info().rss
    seconds = update_seconds(stage)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * machine.MAXRSS - before
    print(json.dumps([peak, seconds]))


def row_of_digits(length: int) -> "Example":
    """Return an example of this many tokens: digits, each of which is one."""
    from corpus import Example

    return Example("1", " " + "2" * (length - 3))


def update_seconds(stage: "Stage") -> float:
    """Train a stage in this process, and return the median seconds of an update but the first."""
    import statistics
    import time

    from training.run.finetune import run

    times: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        run(
            stage,
            Path(out) / "out",
            should_stop=lambda: times.append(time.perf_counter()) or False,  # type: ignore[func-returns-value]
        )
    return statistics.median(b - a for a, b in pairwise(times))


if __name__ == "__main__":
    main()
