"""Claim: training a stage takes at most 1.1 times as long as a bare loop over the same batches.

    python -m benchmarks.trainer_against_loop [--rounds 5] [--steps 30]

A Llama of 1.9 million parameters, 32 rows of about 50 tokens per batch, float32, on the CPU. Both make the same updates of
the same weights (the tests compare the bits): the bare loop is forward, backward, clipping, AdamW and the rate's schedule,
and nothing else. Timed are the steps alone, from the first to the last: for the stage, with the points of its curve. The CPU
time of the process says the same where other programs take turns on its core.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import machine
from training.run.setup import quiet

if TYPE_CHECKING:
    from training.stage import Stage


def main(argv: Sequence[str] | None = None) -> None:
    """Run both in turn, and print a row for each clock."""
    steps = {"type": int, "default": 30, "help": "updates of each run (30)"}
    options = machine.begin(__file__, __doc__, argv, rounds=5, steps=steps)
    with tempfile.TemporaryDirectory() as scratch, quiet():
        stage = _stage(Path(scratch), options.steps)
        clocks: dict[str, list[Clocks]] = {"stage": [], "bare loop": []}
        contenders = {
            "stage": lambda: _kept(clocks["stage"], _run(stage, Path(scratch) / "out")),
            "bare loop": lambda: _kept(clocks["bare loop"], _loop(stage)),
        }
        machine.in_turn(1, contenders)  # warms what torch loads at first use
        for kept in clocks.values():
            kept.clear()
        machine.in_turn(options.rounds, contenders)
    rows = []
    for clock in Clocks._fields:
        stages, loops = (
            [machine.Cost(getattr(one, clock)) for one in kept] for kept in clocks.values()
        )
        ratio = machine.ratio(stages, loops)
        took = [machine.seconds(costs).text() for costs in (stages, loops)]
        rows.append([clock, *took, ratio.text(".3f"), machine.bar(ratio.median, 1.1)])
    machine.show(["seconds", *clocks, "stage / bare loop", "bar"], rows)


class Clocks(NamedTuple):
    """Seconds of one run."""

    wall: float
    cpu: float


class _Watch:
    """Reads both clocks after every step."""

    def __init__(self) -> None:
        self._read: list[Clocks] = []

    def look(self) -> bool:
        self._read.append(Clocks(time.perf_counter(), time.process_time()))
        return False

    def between(self, steps: int) -> Clocks:
        """From the first step to the last but one: a stage is not asked after its last."""
        first, last = self._read[0], self._read[steps - 2]
        return Clocks(last.wall - first.wall, last.cpu - first.cpu)


def _kept(clocks: list[Clocks], found: Clocks) -> machine.Cost:
    clocks.append(found)
    return machine.Cost(found.wall)


def _stage(scratch: Path, steps: int) -> "Stage":
    from corpus.demo import datasets
    from training.stage import Stage
    from workbench.demo.blank_base import write_blank

    examples = tuple(example for splits in datasets(0).values() for example in splits["train"])
    base = write_blank(
        scratch / "base", [example.prompt + example.completion for example in examples]
    )
    return Stage(
        base=base, examples=examples, steps=steps, precision="fp32", order="by_length", device="cpu"
    )


def _run(stage: "Stage", out: Path) -> Clocks:
    """The stage as it is used."""
    from training.run.finetune import run

    watch = _Watch()
    run(stage, out, should_stop=watch.look, on_log=lambda _: None)
    shutil.rmtree(out)
    return watch.between(stage.steps or 0)


def _loop(stage: "Stage") -> Clocks:
    """The same steps without a trainer."""
    import torch
    from transformers import get_scheduler

    model, batches = _model_and_batches(stage)
    norms = [one for name, one in model.named_parameters() if "norm" in name]
    others = [one for name, one in model.named_parameters() if "norm" not in name]
    sets = [{"params": others, "weight_decay": stage.decay}, {"params": norms, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(sets, lr=stage.rate, betas=(0.9, stage.beta2), fused=True)
    warm = round(stage.warmup * len(batches))
    schedule = get_scheduler(
        stage.schedule, optimiser, num_warmup_steps=warm, num_training_steps=len(batches)
    )
    watch = _Watch()
    for batch in batches:
        inputs = batch()
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        watch.look()
    return watch.between(len(batches))


def _model_and_batches(stage: "Stage") -> tuple[Any, list[Callable[[], dict[str, Any]]]]:
    from functools import partial

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from corpus import encode_all
    from training.batching.order import collate, order

    tokenizer = AutoTokenizer.from_pretrained(stage.base)
    rows, _ = encode_all(stage.examples, tokenizer, tokenizer.model_max_length)
    model = AutoModelForCausalLM.from_pretrained(stage.base, dtype=torch.float32).train()
    batches = order(stage, [len(row.ids) for row in rows], [], [], 1).rows
    return model, [
        partial(collate, [rows[index] for index in batch], tokenizer.pad_token_id)
        for batch in batches
    ]


if __name__ == "__main__":
    main()
