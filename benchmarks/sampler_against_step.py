"""Claim: drawing every step from one group (CommonIT) takes less than 2 % of the step.

    python -m benchmarks.sampler_against_step [--rounds 5] [--batch 8]

A step is forward, backward and AdamW of the embedded demo's base, two million parameters, on one batch of its training
examples: a larger model or batch makes it longer, and the share smaller. The sampler is iterated through a whole epoch,
in which it also makes that epoch's order, and its time is divided by the steps of the epoch. Beside it stands torch's
RandomSampler. What is done once, before the first step, is shown apart.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import machine
from benchmarks.slider_to_losses import DEMO

EXAMPLES = (1_000, 100_000, 1_000_000)
GROUPS = 57
"""As many as the paper's anchors have labels."""
STEPS = 20
"""Steps of one measurement."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure step and samplers in turn, and print their ratio for each number of examples."""
    batch = {"type": int, "default": 8, "help": "examples per step (8)"}
    most = {
        "type": int,
        "default": EXAMPLES[-1],
        "help": f"leave out datasets of more examples ({EXAMPLES[-1]:,})",
    }
    options = machine.begin(__file__, __doc__, argv, rounds=5, batch=batch, most=most)
    from torch.utils.data import RandomSampler

    from training.batching.group_sampler import GroupBlockSampler

    step, words = _step(options.batch)
    print(f"{words}\n")
    rows = []
    for examples in (count for count in EXAMPLES if count <= options.most):
        groups = [number * 7919 % GROUPS for number in range(examples)]
        made = machine.timed(lambda groups=groups: GroupBlockSampler(groups, options.batch, 0))
        sampler = GroupBlockSampler(groups, options.batch, 0)
        contenders = {
            "step": lambda: machine.Cost(
                machine.timed(lambda: [step() for _ in range(STEPS)]).seconds / STEPS
            ),
            "groups": lambda sampler=sampler: _drained(sampler, options.batch),
            "random": lambda groups=groups: _drained(RandomSampler(groups), options.batch),
        }
        machine.in_turn(1, contenders)  # memory that is taken for the first time
        costs = machine.in_turn(options.rounds, contenders)
        share = machine.ratio(costs["groups"], costs["step"])
        drawn = [
            machine.spread([cost.seconds * 1e6 for cost in costs[name]]).text(".1f")
            for name in ("groups", "random")
        ]
        took = machine.spread([cost.seconds * 1e3 for cost in costs["step"]]).text(".1f")
        percent = machine.spread([value * 100 for value in share])
        bar = machine.bar(percent.median, 2, " %")
        rows.append(
            [f"{examples:,}", f"{made.seconds * 1e3:.1f}", *drawn, took, percent.text(".3f"), bar]
        )
    machine.show(
        [
            "examples",
            "made once, ms",
            "group blocks, µs a step",
            "RandomSampler, µs",
            "step, ms",
            "share, %",
            "bar",
        ],
        rows,
    )


def _drained(sampler: Iterable[int], batch: int) -> machine.Cost:
    """What an epoch takes of one step's time."""
    drawn = 0

    def drain() -> None:
        nonlocal drawn
        drawn = sum(1 for _ in sampler)

    return machine.Cost(machine.timed(drain).seconds / (drawn / batch))


def _step(batch: int) -> tuple[Callable[[], Any], str]:
    """One update of the demo's base, and what it is in words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from corpus import encode, read_datasets
    from training.batching.order import collate

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base", trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        DEMO / "base", dtype=torch.float32, trust_remote_code=False
    )
    first = next(iter(read_datasets(DEMO / "data", "train").values()))
    inputs = collate(
        [encode(example, tokenizer) for example in first[:batch]], tokenizer.pad_token_id
    )
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=1e-4)

    def step() -> None:
        model(**inputs).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    step()  # the optimiser's state
    numbers = sum(parameter.numel() for parameter in model.parameters())
    return (
        step,
        f"{numbers:,} parameters, {batch} examples a step, padded to {inputs['input_ids'].shape[1]} tokens",
    )


if __name__ == "__main__":
    main()
