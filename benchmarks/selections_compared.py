"""Claim: what LESS selects teaches more than as much drawn at random, at the same training cost.

    python -m benchmarks.selections_compared [--rounds 3] [--targets mathqa] [--keep FOLDER]

The pool is the training data of the demo, `--pool` examples of each of its sources. What is wanted
is shown by `--shown` validation examples of each target. Each method chooses a share of the pool.
The base is then trained on the choice, always for the same number of steps, so that every row has
cost the same training. "all" trains on the pool as it is, and "own source" on examples of the
targets' sources drawn at random, which needs the knowledge that no method is given.

The loss is the mean over the targets on their test split, in nats per supervised token, which no
method has seen. A round is another seed: of the warm-up, of the examples that are shown, of what is
drawn at random and of the training. The median of the rounds is shown with the lowest and the
highest, and beside it the median of the differences to "random" within a round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import machine

if TYPE_CHECKING:
    from corpus import Record
    from influence.gradients.adam_direction import Kind
    from influence.selection.choose import Policy
    from workbench.influence_runs.selecting import Method, StudyAnswer
    from workbench.influence_runs.study import Study

METHODS: Mapping[str, tuple[Method, Kind, Policy]] = {
    "random": ("random", "sgd", "mean"),
    "stratified": ("stratified", "sgd", "mean"),
    "BM25, round-robin": ("bm25", "sgd", "round_robin"),
    "RDS+, maximum": ("rds", "sgd", "max"),
    "RDS+, round-robin": ("rds", "sgd", "round_robin"),
    "LESS (sgd), maximum": ("less", "sgd", "max"),
    "LESS (sgd), round-robin": ("less", "sgd", "round_robin"),
    "LESS (adam), maximum": ("less", "adam", "max"),
    "LESS (adam), round-robin": ("less", "adam", "round_robin"),
}
"""Row -> method, direction of the stored gradients, and policy."""
ROWS_OPTION: dict[str, Any] = {
    "nargs": "+", "choices": list(METHODS), "default": list(METHODS), "metavar": "ROW",
    "help": "rows to measure beside random (default: all)",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Choose with each method, train on each choice, and print the losses."""

    options = machine.begin(
        __file__, __doc__, argv, rounds=3,
        targets={"nargs": "*", "default": [], "help": "sources that are wanted (default: all)"},
        rows=ROWS_OPTION,
        shares={"nargs": "+", "type": float, "default": [0.05, 0.2], "help": "0.05 0.2 by default"},
        pool=machine.number(400, "examples of each source"),
        shown=machine.number(20, "validation examples of each target"),
        steps=machine.number(60, "steps of every training"),
        batch=machine.number(32, "examples of a step"),
        epochs=machine.number(4, "passes of the warm-up"),
        keep={"type": Path, "help": "keep everything in this folder, and go on with what it holds"},
        demo={"type": Path, "default": machine.DEMO, "help": "a folder like the demo's"},
    )  # fmt: skip
    with ExitStack() as stack:
        root = options.keep or Path(stack.enter_context(TemporaryDirectory()))
        rounds = [one_round(options, root, seed) for seed in range(options.rounds)]
    show(options.shares, rounds)


def one_round(options: Any, root: Path, seed: int) -> dict[tuple[str, float], float]:
    """Returns (row, share) -> mean test loss; "all" has the share 1."""
    from corpus import read_datasets

    data = _pool(options, root)
    targets = options.targets or sorted(each.name for each in data.iterdir())
    folder = root / f"{'-'.join(targets)}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    study = begin(options, root / f"study-{seed}", data, seed)
    validation = read_datasets(options.demo / "data", "validation")
    wanted = {
        name: Random(f"{name}/{seed}").sample(list(validation[name]), options.shown)
        for name in targets
    }
    test = {name: read_datasets(options.demo / "data", "test")[name] for name in targets}
    found = {}
    for share in options.shares:
        for row in dict.fromkeys(["random", *options.rows]):
            chosen = folder / f"{row}-{share}.selection.json"
            if not chosen.exists():
                asked(study, wanted, row, share, seed).write(chosen, study)
            found[row, share] = _loss(options, folder, chosen, test, seed)
        own = folder / f"own source-{share}.selection.json"
        _write_own(study, targets, share, seed, own)
        found["own source", share] = _loss(options, folder, own, test, seed)
    everything = folder / "all.selection.json"
    _write_own(study, list(study.sources), 1.0, seed, everything)
    found["all", 1.0] = _loss(options, folder, everything, test, seed)
    return found


def begin(options: Any, folder: Path, data: Path, seed: int) -> Study:
    """Returns a study with what the rows of the options need: a warm-up and stored gradients."""
    from influence.projection.projector import Projection
    from workbench.influence_runs.gradient_store import store_gradients
    from workbench.influence_runs.study import WarmUp, begin_study
    from workbench.influence_runs.warm_up import warm_up
    from workbench.plans.recorded_run import Watcher

    base = str((options.demo / "base").resolve())
    settings = WarmUp(epochs=options.epochs, rate=1e-3, seed=seed)
    study, pool = begin_study(folder, base, data, "train", settings)
    for kind in {METHODS[row][1] for row in options.rows if METHODS[row][0] == "less"}:
        warm_up(study, pool, Watcher())
        store_gradients(study, kind, Projection(seed=seed))
    return study


def _pool(options: Any, root: Path) -> Path:
    """Returns a folder with the first examples of each source of the demo."""
    from plumbing.atomic import write_whole

    folder = root / "pool"
    for file in sorted((options.demo / "data").glob("*/train.jsonl")):
        own = folder / file.parent.name
        own.mkdir(parents=True, exist_ok=True)
        with file.open(encoding="utf-8") as lines:
            write_whole(own / file.name, "".join(islice(lines, options.pool)))
    return folder


def asked(
    study: Study, wanted: Mapping[str, Sequence[Record]], row: str, amount: float, seed: int
) -> StudyAnswer:
    """Returns what the method of a row chooses: a share of the pool, or a number of examples."""
    from influence.selection.budget import Budget
    from workbench.influence_runs.selecting import Question, ask

    method, kind, policy = METHODS[row]
    budget = Budget(amount)
    question = Question(method, kind, policy=policy, budget=budget, copies=None, seed=seed)
    return ask(study, wanted, question)


def _write_own(study: Study, targets: Sequence[str], share: float, seed: int, file: Path) -> None:
    """Writes examples of the targets' sources, drawn at random: a share of the whole pool.

    At most all of them.
    """
    from corpus import Chosen, write_selection

    pool = study.pool()
    every = [(name, number) for name in targets for number in range(len(pool[name]))]
    count = min(len(every), round(share * sum(map(len, pool.values()))))
    drawn = Random(f"own/{seed}").sample(every, count)
    write_selection(file, study.sources, [Chosen(name, number, 1.0) for name, number in drawn])


def _loss(
    options: Any, folder: Path, chosen: Path, test: Mapping[str, Sequence[Record]], seed: int
) -> float:
    """Trains the base on a selection, and returns the mean test loss of the targets."""
    from plumbing.strict_yaml import dump
    from training.plan.plan_file import read_plan
    from workbench.plans.recorded_run import Watcher, run_recorded

    name = chosen.name.removesuffix(".selection.json")
    kept = folder / f"{name}.loss.json"
    if kept.exists():
        return float(json.loads(kept.read_text())["loss"])
    base = str((options.demo / "base").resolve())
    plan = {
        "base": base,
        "sources": {"chosen": chosen.name},
        "settings": training_settings(options, seed),
        "schedule": {"kind": "experts"},
    }
    (folder / f"{name}.yml").write_text(dump(plan), "utf-8")
    read = read_plan(folder / f"{name}.yml")
    [made] = run_recorded(read, folder / name, Watcher(), resume=True)
    mean = mean_loss(Path(base), made.folder, test)
    kept.write_text(json.dumps({"loss": mean}))
    return mean


def training_settings(options: Any, seed: int) -> dict[str, Any]:
    """Returns the settings of the plan of a training on the demo, for `--steps` and `--batch`."""
    return {
        "steps": options.steps, "batch": options.batch, "rate": 6e-4, "seed": seed,
        "frozen": ["*embed_tokens*"], "device": "cpu", "order": "by_length",
    }  # fmt: skip


def mean_loss(base: Path, folder: Path, sets: Mapping[str, Sequence[Record]]) -> float:
    """Returns the mean over sets of the loss of a trained model, in nats per supervised token."""
    from evaluation.loss import losses
    from evaluation.prepared import prepare
    from workbench.influence_runs.trained_model import load_trained

    loaded = load_trained(base, folder)
    values = [each.value for each in losses(loaded.module, prepare(sets, loaded.tokenizer))]
    return sum(values) / len(values)


def show(shares: Sequence[float], rounds: Sequence[Mapping[tuple[str, float], float]]) -> None:
    """Print the loss of each row at each share, and its difference to "random"."""
    rows = []
    for row in dict.fromkeys(row for row, _ in rounds[0]):
        cells = [row]
        for share in shares:
            key = (row, share) if row != "all" else (row, 1.0)
            losses = machine.spread([each[key] for each in rounds])
            gained = machine.spread([each[key] - each["random", share] for each in rounds])
            cells += [losses.text(".3f"), gained.text("+.3f")]
        rows.append(cells)
    head = ["trained on"]
    for share in shares:
        head += [f"test loss, {share:.0%}", "− random"]
    machine.show(head, rows)


if __name__ == "__main__":
    main()
