"""Claim: gradients in batches take examples 1.8 times as fast as one by one, for LoRA.

    python -m benchmarks.gradients_in_batches [--demo assets/demo] [--examples 200] [--rounds 3]

The gradients of training examples of all datasets of a demo, at its base: of a LoRA adapter on all
linear layers, and of all weights, for which the target is 1.3. In batches, the gradients of each
parameter are computed and dropped, as a projection does. One by one, each example has a forward and
a backward pass of its own. Both run in turn in one process, on one thread, and are compared by
their CPU time, which other processes disturb less.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

TARGETS = {"LoRA": 1.8, "all weights": 1.3}
"""What is trained -> how many times the examples per second batches must reach."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both ways for an adapter and for all weights, and print a row for each."""
    demo = {"type": Path, "default": machine.DEMO, "help": "a folder with base/ and data/"}
    count = {"type": int, "default": 200, "help": "how many examples (default: 200)"}
    options = machine.begin(__file__, __doc__, argv, rounds=3, demo=demo, examples=count)
    import torch

    from influence.gradients.examples import read_examples

    torch.set_num_threads(1)
    rows = []
    for trained, least in TARGETS.items():
        model, tokenizer = _model(options.demo / "base", adapter=trained == "LoRA")
        records = machine.records(options.demo, "train", options.examples)
        examples = read_examples(records, tokenizer, too_long="drop")
        ways = _ways(model, examples)
        # The first round also pays for memory that is taken for the first time.
        machine.in_turn(1, ways)
        costs = machine.in_turn(options.rounds, ways)
        for way, taken in costs.items():
            speed = machine.spread([len(examples.records) / cost.cpu for cost in taken])
            ratio = machine.ratio(costs["one by one"], taken, of="cpu")
            verdict = f"≥ {least:g}: {'met' if ratio.median >= least else 'missed'}"
            target = verdict if way == "in batches" else ""
            rows.append([trained, way, speed.text(".1f"), ratio.text(), target])
    machine.show(
        ["trained", "gradients", "examples per CPU second", "times as fast", "target"], rows
    )


def _ways(model: Any, examples: Any) -> dict[str, Callable[[], machine.Cost]]:
    """Return what is measured."""
    from influence.gradients.one_by_one import one_by_one
    from influence.gradients.per_example import per_example

    def all_of(way: Callable[[Any, Any], Any]) -> machine.Cost:
        def work() -> None:
            for gradients in way(model, examples):
                for name in gradients.names:
                    gradients.of(name)

        return machine.timed(work)

    return {"in batches": lambda: all_of(per_example), "one by one": lambda: all_of(one_by_one)}


def _model(base: Path, adapter: bool) -> tuple[Any, Any]:
    """Return the base of a demo in float32, with an adapter or trained whole, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from training.adapter import Lora
    from training.run.lora import add_adapter

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
    if adapter:
        torch.manual_seed(0)
        add_adapter(model, Lora(rank=8))
        with torch.no_grad():  # B begins as zeros, with which the gradients of A vanish
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
    return model.eval(), AutoTokenizer.from_pretrained(base, trust_remote_code=False)


if __name__ == "__main__":
    main()
