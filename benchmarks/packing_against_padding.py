"""Claim: packing trains on at least 1.5 times the tokens per second of padded, shuffled batches.

    python -m benchmarks.packing_against_padding [--rounds 3] [--steps 12]

A Llama of 1.9 million parameters trains in float32 on the CPU, 16 examples per update. Their
lengths are drawn from a log-normal distribution with σ = 1, as those of chats are about distributed
(ShareGPT), with a median of 90 tokens and at most 512. All three ways take the same number of
examples; `by_length` sorts them into batches of similar length.
"""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from training.run.setup import quiet

if TYPE_CHECKING:
    from training.stage import Stage

WAYS: dict[str, dict[str, Any]] = {
    "packing": {"packing": True},
    "by_length": {"order": "by_length"},
    "shuffle": {},
}
"""Name of a way -> the settings that it has beside the others'."""
MEDIAN, SIGMA, MOST = 90, 1.0, 512


def main(argv: Sequence[str] | None = None) -> None:
    """Train in the three ways in turn, and print a row for each."""
    steps = {"type": int, "default": 12, "help": "updates per run (default: 12)"}
    options = machine.begin(__file__, __doc__, argv, rounds=3, steps=steps)
    from dataclasses import replace

    with tempfile.TemporaryDirectory() as scratch, quiet():
        stage = _stage(Path(scratch), options.steps)
        stages = {name: replace(stage, **settings) for name, settings in WAYS.items()}
        costs = machine.in_turn(
            options.rounds,
            {
                name: lambda each=each: _run(each, Path(scratch) / "out")
                for name, each in stages.items()
            },
        )
    rows = []
    for name in WAYS:
        # A cost is the seconds of a token, so the ratio of rates is the other way round.
        times = machine.ratio(costs["shuffle"], costs[name])
        rate = machine.spread([1 / cost.seconds for cost in costs[name]])
        target = ""
        if name == "packing":
            target = f"≥ 1.5: {'met' if times.median >= 1.5 else 'missed'}"
        rows.append([name, rate.text(".0f"), times.text(), target])
    machine.show(["", "tokens/s", "times shuffle", "target"], rows)


def _stage(scratch: Path, steps: int) -> "Stage":
    """Return a stage on examples whose lengths are like those of chats."""
    from corpus import Example
    from training.stage import Stage
    from workbench.demo.blank_base import write_blank

    rng = Random(0)
    # Digits, of which the tokenizer makes a token each; three more are the prompt and the end.
    lengths = [
        min(MOST, max(8, round(rng.lognormvariate(math.log(MEDIAN), SIGMA)))) for _ in range(400)
    ]
    examples = tuple(
        Example("1", " " + "".join(rng.choice("0123456789") for _ in range(length - 4)))
        for length in lengths
    )
    base = write_blank(scratch / "base", ["0 1 2 3 4 5 6 7 8 9", *("a b",) * 3])
    config = json.loads((base / "config.json").read_text("utf-8"))
    config["max_position_embeddings"] = MOST
    (base / "config.json").write_text(json.dumps(config), "utf-8")
    return Stage(
        base=base,
        examples=examples,
        steps=steps,
        batch=16,
        precision="fp32",
        device="cpu",
        max_length=MOST,
    )


def _run(stage: "Stage", out: Path) -> machine.Cost:
    """Train the stage, and return the seconds of a token after the first update."""
    from training.run.finetune import run

    times: list[float] = []

    def look() -> bool:
        times.append(time.perf_counter())
        return False

    made = run(stage, out, should_stop=look)
    shutil.rmtree(out)
    # Nobody is asked after the last update. All updates have about the same number of tokens.
    each = made.spent.tokens / (stage.steps or 1)
    return machine.Cost((times[-1] - times[0]) / (each * (len(times) - 1)))


if __name__ == "__main__":
    main()
