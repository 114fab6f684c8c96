"""Claim: drawing every step from one group (CommonIT) takes less than 2 % of the step.

    python -m benchmarks.sampler_against_step [--rounds 5] [--batch 8]

A step is forward, backward and AdamW of the demo's base, two million parameters, on one batch of
its training examples. A larger model or batch makes the step longer, and the share smaller. The
sampler runs through a whole epoch, in which it also makes the order of that epoch; its time is
divided by the number of steps. torch's RandomSampler is measured for comparison. What the sampler
does once, before the first step, is shown in its own column, "set-up".
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import machine

EXAMPLES = (1_000, 100_000, 1_000_000)
GROUPS = 57
"""Groups: as many as the paper's anchors, the MMLU development set, have tasks."""
STEPS = 20
"""Training steps per measurement."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the step and both samplers in turn, and print a row for each number of examples."""
    batch = {"type": int, "default": 8, "help": "examples per step (default: 8)"}
    most = {
        "type": int,
        "default": EXAMPLES[-1],
        "help": f"skip datasets with more examples (default: {EXAMPLES[-1]:,})",
    }
    options = machine.begin(__file__, __doc__, argv, rounds=5, batch=batch, most=most)
    from torch.utils.data import RandomSampler

    from training.batching.group_sampler import GroupBlockSampler

    step, description = _step(options.batch)
    print(f"{description}\n")
    rows = []
    for examples in (count for count in EXAMPLES if count <= options.most):
        groups = [number * 7919 % GROUPS for number in range(examples)]
        setup = machine.timed(lambda groups=groups: GroupBlockSampler(groups, options.batch, 0))
        sampler = GroupBlockSampler(groups, options.batch, 0)
        contenders = {
            "step": lambda: machine.Cost(
                machine.timed(lambda: [step() for _ in range(STEPS)]).seconds / STEPS
            ),
            "groups": lambda sampler=sampler: _drain(sampler, options.batch),
            "random": lambda groups=groups: _drain(RandomSampler(groups), options.batch),
        }
        # The first round also pays for memory that is taken for the first time.
        machine.in_turn(1, contenders)
        costs = machine.in_turn(options.rounds, contenders)
        share = machine.ratio(costs["groups"], costs["step"])
        drawn = [
            machine.spread([cost.seconds * 1e6 for cost in costs[name]]).text(".1f")
            for name in ("groups", "random")
        ]
        took = machine.spread([cost.seconds * 1e3 for cost in costs["step"]]).text(".1f")
        percent = machine.spread([value * 100 for value in share])
        target = machine.target(percent.median, 2, " %")
        once = f"{setup.seconds * 1e3:.1f}"
        rows.append([f"{examples:,}", once, *drawn, took, percent.text(".3f"), target])
    columns = ["examples", "set-up, ms", "group blocks, µs per step", "RandomSampler, µs"]
    machine.show([*columns, "step, ms", "share, %", "target"], rows)


def _drain(sampler: Iterable[int], batch: int) -> machine.Cost:
    """Draw one epoch, and return the time per step."""
    drawn = 0

    def drain() -> None:
        nonlocal drawn
        drawn = sum(1 for _ in sampler)

    return machine.Cost(machine.timed(drain).seconds / (drawn / batch))


def _step(batch: int) -> tuple[Callable[[], Any], str]:
    """Return a function that makes one update of the demo's base, and its description."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from corpus import encode, read_datasets
    from training.batching.order import collate

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(machine.DEMO / "base", trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        machine.DEMO / "base", dtype=torch.float32, trust_remote_code=False
    )
    first = next(iter(read_datasets(machine.DEMO / "data", "train").values()))
    inputs = collate(
        [encode(example, tokenizer) for example in first[:batch]], tokenizer.pad_token_id
    )
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=1e-4)

    def step() -> None:
        model(**inputs).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    step()  # the first step also makes the optimiser's state
    numbers = sum(parameter.numel() for parameter in model.parameters())
    length = inputs["input_ids"].shape[1]
    description = f"{numbers:,} parameters, {batch} examples per step, padded to {length} tokens"
    return step, description


if __name__ == "__main__":
    main()
