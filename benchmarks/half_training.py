"""Claim: an update with precision bf16 takes no longer than one with fp32, whatever the CPU.

    python -m benchmarks.half_training [--rounds 3] [--size 135M] [--weights FOLDER]

Updates of an adapter of rank 8 on a base in bfloat16 with random weights, and of all weights of a
Llama of 1.9 million parameters; 2 rows of 64 tokens on the CPU, one thread, each run in a process
of its own. "AVX2 only" lets torch's libraries use no newer instructions, so a product in bfloat16
would run in a plain loop, and bf16 computes in float32. "held in bfloat16" asks for that loop: it
shows what the rule saves, and what the estimate of a plan warns of.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.adapter_memory import random_base, row_of_digits, update_seconds

PRECISIONS = {
    "bf16": {"precision": "bf16"},
    "fp32": {"precision": "fp32"},
    "held in bfloat16": {"precision": "bf16", "base_dtype": "bfloat16"},
}
"""Column -> the settings of its runs."""
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
            (what, cpu, column)
            for what in bases
            for cpu in CPUS
            for column in PRECISIONS
            # Weights that are trained themselves are float32.
            if "adapter" in what or "base_dtype" not in PRECISIONS[column]
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
            taken = [costs.get(f"{what} {cpu} {column}") for column in PRECISIONS]
            ratio = machine.ratio(*taken[:2])
            seconds = [machine.seconds(each).text() if each else "" for each in taken]
            target = machine.target(ratio.median, 1.0)
            rows.append([what, cpu, *seconds, ratio.text(), target])
    machine.show(["an update of", "on", *PRECISIONS, "bf16 / fp32", "target"], rows)


def _small_base(scratch: Path) -> Path:
    """Make a base of 1.9 million parameters."""
    from workbench.demo.blank_base import write_blank

    return write_blank(scratch / "small", ["0 1 2 3 4 5 6 7 8 9", *("a b",) * 3])


def _run(base: Path, what: str, cpu: str, column: str) -> machine.Cost:
    """Train in a process of its own; return the seconds of an update."""
    given = [str(base), PRECISIONS[column], "adapter" in what]
    call = f"from benchmarks.half_training import train; train(*{given!r})"
    done = subprocess.run(
        [sys.executable, "-c", call], check=True, cwd=machine.ROOT, stdout=subprocess.PIPE,
        text=True, env=os.environ | CPUS[cpu],
    )  # fmt: skip
    return machine.Cost(json.loads(done.stdout.splitlines()[-1]))


def train(base: str, settings: dict[str, str], adapter: bool) -> None:
    """Train in this process; print the median seconds of an update."""
    import torch

    from training.adapter import Lora
    from training.stage import Stage

    torch.set_num_threads(1)
    stage = Stage(
        base=Path(base),
        examples=(row_of_digits(LENGTH),) * ROWS,
        steps=STEPS + 1,
        batch=ROWS,
        lora=Lora(8) if adapter else None,
        device="cpu",
        **settings,  # type: ignore[arg-type]
    )
    print(json.dumps(update_seconds(stage)))


if __name__ == "__main__":
    main()
