"""Claim: training a stage takes at most 1.05 times as long as a bare loop over the same batches.

    python -m benchmarks.trainer_against_loop [--rounds 5] [--steps 30]

A Llama of 1.9 million parameters trains in float32 on the CPU, with 32 rows of about 50 tokens per
batch. Both ways make the same updates of the same weights (the tests compare the bits). The bare
loop is forward, backward, clipping, AdamW and the learning rate's schedule, and nothing else. Only
the steps are timed, from the first to the last; those of the stage include the points of its curve.
The CPU time is shown too, because it hardly changes if other programs use the same core.
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
    """Run the stage and the loop in turn, and print a row for each clock."""
    steps = {"type": int, "default": 30, "help": "updates per run (default: 30)"}
    options = machine.begin(__file__, __doc__, argv, rounds=5, steps=steps)
    with tempfile.TemporaryDirectory() as scratch, quiet():
        stage = _stage(Path(scratch), options.steps)
        clocks: dict[str, list[Clocks]] = {"stage": [], "bare loop": []}
        contenders = {
            "stage": lambda: _keep(clocks["stage"], _run(stage, Path(scratch) / "out")),
            "bare loop": lambda: _keep(clocks["bare loop"], _loop(stage)),
        }
        machine.in_turn(1, contenders)  # makes torch load what it loads at first use
        for runs in clocks.values():
            runs.clear()
        machine.in_turn(options.rounds, contenders)
    rows = []
    for clock in Clocks._fields:
        stages, loops = (
            [machine.Cost(getattr(run, clock)) for run in runs] for runs in clocks.values()
        )
        ratio = machine.ratio(stages, loops)
        took = [machine.seconds(costs).text() for costs in (stages, loops)]
        rows.append([clock, *took, ratio.text(".3f"), machine.target(ratio.median, 1.05)])
    machine.show(["seconds", *clocks, "stage / bare loop", "target"], rows)


class Clocks(NamedTuple):
    """Wall-clock and CPU seconds of one run."""

    wall: float
    cpu: float


class _Watch:
    """Reads both clocks after every step."""

    def __init__(self) -> None:
        self._read: list[Clocks] = []

    def look(self) -> bool:
        """Read both clocks; return False, which a stage takes as "do not stop"."""
        self._read.append(Clocks(time.perf_counter(), time.process_time()))
        return False

    def between(self, steps: int) -> Clocks:
        """Return the seconds from the first step to the last but one of `steps`.

        A stage does not ask whether to stop after its last step, so there is no reading of that.
        """
        first, last = self._read[0], self._read[steps - 2]
        return Clocks(last.wall - first.wall, last.cpu - first.cpu)


def _keep(clocks: list[Clocks], run: Clocks) -> machine.Cost:
    clocks.append(run)
    return machine.Cost(run.wall)


def _stage(scratch: Path, steps: int) -> "Stage":
    """Return a stage that trains a blank base on the demo's examples."""
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
    """Run the stage as users do, and return its clocks."""
    from training.run.finetune import run

    watch = _Watch()
    run(stage, out, should_stop=watch.look, on_log=lambda _: None)
    shutil.rmtree(out)
    return watch.between(stage.steps or 0)


def _loop(stage: "Stage") -> Clocks:
    """Make the same steps without a trainer, and return their clocks."""
    import torch
    from transformers import get_scheduler

    model, batches = _model_and_batches(stage)
    # transformers' Trainer applies no weight decay to norms.
    norms = [value for name, value in model.named_parameters() if "norm" in name]
    others = [value for name, value in model.named_parameters() if "norm" not in name]
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
    """Return the model, and for each batch a function that collates it, as a data loader would."""
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
