"""Claim: with instructions for bfloat16, an update in bfloat16 takes no longer than in float32.

    python -m benchmarks.half_training [--rounds 3] [--size 135M] [--weights FOLDER]

Updates of an adapter of rank 8 on a base with random weights, held in the precision that is named,
and of all weights of a Llama of 1.9 million parameters; 2 rows of 64 tokens on the CPU, one thread.
Each run has a process of its own. "AVX2 only" lets torch's libraries use no newer instructions, so
products in bfloat16 run in the plain loop that CPUs without such instructions have; the remark of a
plan's estimate names these ratios.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.adapter_memory import random_base

PRECISIONS = ("bf16", "fp32")
CPUS = {
    "this CPU": {},
    "AVX2 only": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}
"""Which CPU is measured -> the variables that make torch's libraries take it for that."""
ROWS, LENGTH, STEPS = 2, 64, 2


def main(argv: Sequence[str] | None = None) -> None:
    """Run all ways in turn, and print a row for each training and CPU."""
    options = machine.begin(__file__, __doc__, argv, rounds=3, size="135M")
    with tempfile.TemporaryDirectory() as scratch:
        bases = {
            f"an adapter on {options.size}": random_base(
                options.size, options.weights or Path(scratch)
            ),
            "all of 1.9M": _small_base(Path(scratch)),
        }
        ways = [
            (what, cpu, precision) for what in bases for cpu in CPUS for precision in PRECISIONS
        ]
        costs = machine.in_turn(
            options.rounds,
            {
                " ".join(way): lambda way=way: _run(bases[way[0]], *way)  # type: ignore[misc]
                for way in ways
            },
        )
    rows = []
    for what in bases:
        for cpu in CPUS:
            half, full = (costs[f"{what} {cpu} {precision}"] for precision in PRECISIONS)
            ratio = machine.ratio(half, full)
            target = machine.target(ratio.median, 1.0) if cpu == "this CPU" else ""
            seconds = [machine.seconds(each).text() for each in (half, full)]
            rows.append([what, cpu, *seconds, ratio.text(".1f"), target])
    machine.show(["an update of", "on", *PRECISIONS, "bf16 / fp32", "target"], rows)


def _small_base(scratch: Path) -> Path:
    """Make a base of 1.9 million parameters."""
    from workbench.demo.blank_base import write_blank

    return write_blank(scratch / "small", ["0 1 2 3 4 5 6 7 8 9", *("a b",) * 3])


def _run(base: Path, what: str, cpu: str, precision: str) -> machine.Cost:
    """Train in a process of its own; return the seconds of an update."""
    given = [str(base), precision, "adapter" in what]
    call = f"from benchmarks.half_training import train; train(*{given!r})"
    done = subprocess.run(
        [sys.executable, "-c", call], check=True, cwd=machine.ROOT, stdout=subprocess.PIPE,
        text=True, env=os.environ | CPUS[cpu],
    )  # fmt: skip
    return machine.Cost(json.loads(done.stdout.splitlines()[-1]))


def train(base: str, precision: str, adapter: bool) -> None:
    """Train in this process; print the median seconds of an update."""
    import statistics
    import time
    from itertools import pairwise

    import torch

    from corpus import Example
    from training.adapter import Lora
    from training.run.finetune import run
    from training.stage import Stage

    torch.set_num_threads(1)
    stage = Stage(
        base=Path(base),
        # Digits, of which the tokenizers make a token each.
        examples=(Example("1", " " + "2" * (LENGTH - 3)),) * ROWS,
        steps=STEPS + 1,
        batch=ROWS,
        lora=Lora(8) if adapter else None,
        precision=precision,  # type: ignore[arg-type]
        device="cpu",
    )
    times: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        run(
            stage,
            Path(out) / "out",
            should_stop=lambda: times.append(time.perf_counter()) or False,  # type: ignore[func-returns-value]
        )
    print(json.dumps(statistics.median(b - a for a, b in pairwise(times))))


if __name__ == "__main__":
    main()
