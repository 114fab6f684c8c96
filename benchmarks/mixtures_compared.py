"""Claim: a method that weighs domains beats the pool as it is, and an equal share of each domain.

    python -m benchmarks.mixtures_compared [--rounds 3] [--methods ideal stratified] [--keep FOLDER]

The pool is training data of the demo, `--sizes` examples of its sources in their order. The methods
are told to improve all sources, each of which shows `--shown` of its validation examples. What is
proposed is trained from the base as `dem balance` does it, always with as many updates as the pool
as it is.

The loss is the mean over the sources on their test split, in nats per supervised token, which no
method has seen. A round is another seed: of the examples that are drawn and of every training. The
median of the rounds is shown with the lowest and the highest, and beside it the median of the
differences to the pool as it is, within a round. The tokens are all that a method's trainings
processed until its mixture was trained, its proxies and the model of the pool included. The
examples whose gradients IDEAL asks for come on top.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.selections_compared import mean_loss, training_settings

if TYPE_CHECKING:
    from corpus import Record
    from training.plan.plan import Plan
    from workbench.influence_runs.measured_mixture import BalanceRound

METHODS = ("stratified", "ideal", "doremi", "doge")


def main(argv: Sequence[str] | None = None) -> None:
    """Train what each method proposes, and print its test loss and its cost."""

    options = machine.begin(
        __file__, __doc__, argv, rounds=3,
        methods={"nargs": "+", "choices": METHODS, "default": METHODS, "help": "default: all"},
        sizes={
            "nargs": "+", "type": int, "default": [1200, 600, 300, 150, 75],
            "help": "examples of each source, in the order of their names",
        },
        shown=machine.number(100, "validation examples of each source"),
        tested=machine.number(300, "test examples of each source"),
        steps=machine.number(60, "steps of the training on the pool as it is"),
        batch=machine.number(16, "examples of a step"),
        resizings=machine.number(2, "rounds of IDEAL"),
        sample=machine.number(100, "examples of each set for IDEAL's influence"),
        keep={"type": Path, "help": "keep everything in this folder, and go on with what it holds"},
        demo={"type": Path, "default": machine.DEMO, "help": "a folder like the demo's"},
    )  # fmt: skip
    with ExitStack() as stack:
        root = options.keep or Path(stack.enter_context(TemporaryDirectory()))
        rounds = [one_round(options, root / str(seed), seed) for seed in range(options.rounds)]
    show(rounds)


def one_round(options: Any, folder: Path, seed: int) -> dict[str, tuple[float, int]]:
    """Returns row -> mean test loss, and the tokens that were spent until then."""
    from corpus import read_datasets
    from influence.curvature.inverse import CurvatureOptions
    from workbench.influence_runs.balance_rounds import balance_rounds
    from workbench.influence_runs.ideal_rounds import IdealOptions
    from workbench.plans.recorded_run import Watcher

    plan = _plan(options, folder, seed)
    ideal = IdealOptions(
        rounds=options.resizings, sample=options.sample, curvature=CurvatureOptions(seed=seed)
    )
    made = balance_rounds(plan, folder / "rounds", options.methods, ideal, Watcher())
    test = {
        name: records[: options.tested]
        for name, records in read_datasets(options.demo / "data", "test").items()
        if name in plan.sources
    }
    spent = spent_tokens(made)
    return {
        each.label: (_loss(options.demo / "base", each.folder, test), tokens)
        for each, tokens in zip(made, spent, strict=True)
    }


def spent_tokens(made: Sequence[BalanceRound]) -> list[int]:
    """Returns the tokens that led to each mixture, its own training included."""
    start, found = made[0], [made[0].tokens]
    ideal = start.tokens
    for each in made[1:]:
        if each.method == "ideal":
            ideal += each.tokens
            found.append(ideal)
        elif each.proxy is None:
            found.append(each.tokens)  # an equal share needs to know nothing
        else:
            # DoReMi's reference model is the start, which DOGE does not need.
            known = start.tokens if each.proxy.reference_tokens else 0
            found.append(known + each.proxy.tokens + each.proxy.reference_tokens + each.tokens)
    return found


def _plan(options: Any, folder: Path, seed: int) -> Plan:
    """Returns the plan of a round, whose data are drawn and written into its folder."""
    from corpus import read_datasets, write_jsonl
    from plumbing.strict_yaml import dump
    from training.plan.plan_file import read_plan

    splits = {
        split: read_datasets(options.demo / "data", split) for split in ("train", "validation")
    }
    names = sorted(splits["train"])
    sizes = dict(zip(names, options.sizes, strict=False))
    for name, size in sizes.items():
        for split, count in (("train", size), ("validation", options.shown)):
            every = list(splits[split][name])
            drawn = Random(f"{split}/{name}/{seed}").sample(every, min(count, len(every)))
            write_jsonl(folder / "data" / name / f"{split}.jsonl", drawn)
    own = {name: f"data/{name}" for name in sizes}
    plan = {
        "base": str((options.demo / "base").resolve()),
        "sources": own,
        "validation": own,
        "settings": training_settings(options, seed),
        "schedule": {"kind": "mixing"},
    }
    (folder / "plan.yml").write_text(dump(plan), "utf-8")
    return read_plan(folder / "plan.yml")


def _loss(base: Path, folder: Path, test: Mapping[str, Sequence[Record]]) -> float:
    """Returns the mean test loss of a trained model, which is kept beside it."""
    kept = folder.with_name(f"{folder.name}.test.json")
    if not kept.exists():
        kept.write_text(json.dumps({"loss": mean_loss(base, folder, test)}))
    return float(json.loads(kept.read_text())["loss"])


def show(rounds: Sequence[Mapping[str, tuple[float, int]]]) -> None:
    """Print the test loss of each row, its difference to the start, and the tokens it took."""
    rows = []
    for row in rounds[0]:
        losses = machine.spread([each[row][0] for each in rounds])
        gained = machine.spread([each[row][0] - each["start"][0] for each in rounds])
        tokens = machine.spread([each[row][1] / 1e6 for each in rounds])
        name = "the pool as it is" if row == "start" else row
        rows.append([name, losses.text(".3f"), gained.text("+.3f"), tokens.text(".2f")])
    machine.show(["mixture", "test loss", "− the pool as it is", "million tokens"], rows)


if __name__ == "__main__":
    main()
