"""Claim: the loss finds shuffled answers (AUC at least 0.8), and the vectors find moved examples.

    python -m benchmarks.misfiled_examples [--rounds 5] [--examples 60] [--steps 60]

Faults are planted into training data of the demo. Of the examples of each dataset, a tenth are
moved there from other datasets, and a tenth get the answer of another example of their dataset. A
number is good at finding a fault if it is larger for the examples with the fault than for those
without: the AUC is the share of such pairs, 0.5 for a coin. It is computed within each dataset, and
the mean over the datasets is shown: the median of the rounds, with the lowest and the highest. A
round is another draw.

First the shipped experts, which were trained on the data as it was. This is the easy case: the
experts have never seen the faults. Then the honest case: an expert is trained anew on 1200 examples
with the same shares of faults. It is asked about all of these with a fault, and as many others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import machine

if TYPE_CHECKING:
    from corpus.records import Example
    from influence.vectors.misfiled import MisfiledTable

PLANTED = 0.1
"""The share of each dataset with each of the two faults."""
LEAST = 0.8
"""The AUC that the own expert's loss is to reach for shuffled answers."""
FAULTS = ("moved", "shuffled")
COLUMNS = (
    "cosine with own vector",
    "margin",
    "loss margin",
    "base loss",
    "own loss",
    "less drop",
    "suspicion",
)
RETRAINED = "mathqa"


class Planted(NamedTuple):
    """A dataset with faults."""

    records: tuple[Example, ...]
    faults: tuple[str, ...]
    """For each record one of FAULTS; "" if it is as it was."""


def main(argv: Sequence[str] | None = None) -> None:
    """Plant faults, look for them, and print two tables."""
    examples = {"type": int, "default": 60, "help": "examples of each dataset (default: 60)"}
    steps = {"type": int, "default": 60, "help": "steps of the expert trained anew (default: 60)"}
    demo = {"type": Path, "default": machine.DEMO, "help": "a folder like the demo's"}
    options = machine.begin(
        __file__, __doc__, argv, rounds=5, examples=examples, steps=steps, demo=demo
    )
    from corpus import read_datasets

    data: Any = read_datasets(options.demo / "data", "train")
    rounds = []
    for seed in range(options.rounds):
        planted = {name: plant(data, name, options.examples, seed) for name in data}
        folders = {name: options.demo / name for name in data}
        rounds.append(found(options.demo / "base", folders, planted))
    print("Experts that were trained on the data as it was:\n")
    _show(rounds)
    print(f"The expert {RETRAINED} trained anew, {options.steps} steps, on data with the faults:\n")
    with TemporaryDirectory() as folder:
        planted = {RETRAINED: plant(data, RETRAINED, len(data[RETRAINED]), seed=0)}
        own = _train(options, planted[RETRAINED], Path(folder) / RETRAINED)
        folders = {name: options.demo / name for name in data} | {RETRAINED: own}
        records, faults = planted[RETRAINED]
        asked = 2 * sum(map(bool, faults))  # those with a fault come first
        part = {RETRAINED: Planted(records[:asked], faults[:asked])}
        _show([found(options.demo / "base", folders, part)])


def plant(data: Mapping[str, Sequence[Example]], name: str, count: int, seed: int) -> Planted:
    """Returns `count` examples of a dataset, some of which have a fault.

    Args:
        data: dataset -> its examples.
        name: the dataset.
        count: number of examples, those with faults included.
        seed: of the draw.
    """
    random = Random(f"{name}/{seed}")
    faulty = round(count * PLANTED)
    drawn = random.sample(data[name], count - faulty)
    others = [example for other in data if other != name for example in data[other]]
    moved = random.sample(others, faulty)
    shuffled = [_with_wrong_answer(example, data[name], random) for example in drawn[:faulty]]
    return Planted(
        (*moved, *shuffled, *drawn[faulty:]),
        ("moved",) * faulty + ("shuffled",) * faulty + ("",) * (count - 2 * faulty),
    )


def _with_wrong_answer(example: Example, dataset: Sequence[Example], random: Random) -> Example:
    """Returns an example with an answer that is another example's, and not its own."""
    answers = [each.completion for each in dataset if each.completion != example.completion]
    return replace(example, completion=random.choice(answers))


def found(
    base: Path, folders: Mapping[str, Path], planted: Mapping[str, Planted]
) -> dict[tuple[str, str], float]:
    """Returns (column, fault) -> the mean AUC over the datasets.

    Args:
        base: folder of the base.
        folders: dataset -> folder of its expert.
        planted: dataset -> its examples.
    """
    from sklearn.metrics import roc_auc_score

    from evaluation.model import load
    from influence.vectors.misfiled import misfiled_tables
    from merging import Checkpoint, LiveModel, in_memory, open_vector

    checkpoint = Checkpoint(base)
    loaded = load(base, checkpoint=checkpoint)
    vectors = {name: open_vector(folder, checkpoint, name) for name, folder in folders.items()}
    live = LiveModel(loaded.module, in_memory(checkpoint), vectors, loaded.views)
    records = {name: each.records for name, each in planted.items()}
    scores: dict[tuple[str, str], list[float]] = {}
    for table in misfiled_tables(live, records, loaded.tokenizer):
        faults = [planted[table.dataset].faults[number] for number in table.records]
        for column, values in zip(COLUMNS, _columns(table), strict=True):
            for fault in FAULTS:
                pairs = zip(faults, values, strict=True)
                kept = [(mark == fault, value) for mark, value in pairs if mark in ("", fault)]
                auc = roc_auc_score(*zip(*kept, strict=True))
                scores.setdefault((column, fault), []).append(float(auc))
    return {key: sum(each) / len(each) for key, each in scores.items()}


def _columns(table: MisfiledTable) -> list[list[float]]:
    """Returns the numbers of COLUMNS, each larger for what is more suspicious."""
    numbers = [table.own_cosines, table.margins, table.loss_margins, table.base_losses]
    numbers += [table.own_losses, -table.drops, table.suspicions]
    return [each.tolist() for each in numbers]


def _train(options: Any, planted: Planted, out: Path) -> Path:
    """Trains an expert as the demo's is trained, but for the data and the number of steps."""
    from training.run.finetune import run
    from training.stage import Stage
    from workbench.demo.build import ALL, COMMON, EXPERTS

    settings = EXPERTS[RETRAINED] | ALL | COMMON | {"steps": options.steps, "replay_share": 0.0}
    stage = Stage(base=options.demo / "base", examples=planted.records, **settings)
    return run(stage, out).folder


def _show(rounds: Sequence[Mapping[tuple[str, str], float]]) -> None:
    """Print the AUC of each column for each fault."""
    rows = []
    for column in COLUMNS:
        spreads = [machine.spread([each[column, fault] for each in rounds]) for fault in FAULTS]
        judged = spreads[1].median
        met = f"≥ {LEAST}: {'met' if judged >= LEAST else 'missed'}" if column == "own loss" else ""
        rows.append([column, *(spread.text() for spread in spreads), met])
    machine.show(["AUC of", "moved examples", "shuffled answers", "target"], rows)


if __name__ == "__main__":
    main()
