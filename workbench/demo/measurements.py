"""What the demo's table says: ω from the validation split, then every row from the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus import Example

if TYPE_CHECKING:
    from evaluation.loss import Prepared
    from evaluation.records.ledger import Ledger
    from evaluation.records.meter import Meter
    from merging import LiveModel, Recipe

LINE = (0.2, 0.4, 0.6, 0.8, 1.0)
"""One ω for all, tried first; the coordinate search starts from the best."""

Step = Callable[..., None]
"""Called with steps done and steps in all."""


def measure(
    data: Mapping[str, Mapping[str, list[Example]]],
    staged: Path,
    experts: Sequence[str],
    scratch: Path,
    part: Callable[[str, float], AbstractContextManager[Step]],
    ledger: Ledger | None,
) -> dict[str, Any]:
    """ω from the validation split, then every row of the table on the test split.

    Args:
        data: examples by dataset and split.
        staged: the folder of base, experts, the model trained on mixed data, and data.
        experts: their names.
        scratch: an empty folder.
        part: begins a part of the work, given its name and its share of all.
        ledger: gets what the search and the table cost.
    """
    from evaluation.loss import prepare
    from evaluation.model import load
    from evaluation.records.meter import Meter, measured
    from merging import Checkpoint, LiveModel, in_memory, open_recipe

    zero = recipe_of(staged, dict.fromkeys(experts, 0.0))
    base, vectors = open_recipe(zero)
    loaded = load(staged / "base", checkpoint=base)
    live = LiveModel(loaded.module, in_memory(base), vectors, loaded.views)
    validation, test = (
        prepare({name: splits[split] for name, splits in data.items()}, loaded.tokenizer)
        for split in ("validation", "test")
    )
    meter = Meter()
    with part("searching ω", 0.04) as step, meter.running():
        omegas, line, trials = search(live, zero, validation, step, meter)
    tried = len(trials) + len(LINE) - 1  # the search begins at the best of the line
    if ledger is not None:
        ledger.add_all([meter.phase("search", "demo", settings=tried)])
    compositions = {
        "base": {},
        **{f"expert {name}": {name: 1.0} for name in experts},
        "uniform average": dict.fromkeys(experts, round(1 / len(experts), 4)),
        f"one ω for all ({line:g})": dict.fromkeys(experts, line),
        "DEM, ω tuned": omegas,
    }
    suite = _suite(staged / "data", scratch / "suite")
    rows = []
    with part("measuring", 0.06) as step, measured(ledger, "evaluation", "demo table") as spent:
        for number, (label, omega) in enumerate(compositions.items()):
            live.apply(zero.with_omegas(omega))
            rows.append(_row(label, loaded.module, loaded.tokenizer, test, suite))
            step(number + 1, len(compositions) + 1)
        mixed = load(staged / "mixed", checkpoint=Checkpoint(staged / "mixed"))
        rows.append(_row("data mixing", mixed.module, mixed.tokenizer, test, suite))
        spent.count(len(rows) * sum(dataset.n for dataset in test.datasets))
    return {"split": "test", "omegas": omegas, "evaluations": len(trials), "rows": rows}


def search(
    live: LiveModel, zero: Recipe, validation: Prepared, step: Step, meter: Meter
) -> tuple[dict[str, float], float, list[Any]]:
    """The ω with the highest mean share of each expert's gain in loss; the best single ω; and all trials.

    A dataset counts as 0 where the loss is the base's and as 1 where it is its own expert's, so that a dataset with
    large losses does not rule the search.
    """
    from evaluation.loss import losses
    from evaluation.search import CoordinateSearch

    def measured(omegas: Mapping[str, float]) -> dict[str, float]:
        live.apply(zero.with_omegas(omegas))
        found = list(losses(live.module, validation))
        meter.count(
            sum(loss.n for loss in found), validation.positions, sum(loss.tokens for loss in found)
        )
        return {loss.dataset: loss.value for loss in found}

    names = list(zero.omegas)
    nothing: dict[str, float] = dict.fromkeys(names, 0.0)
    start = measured(nothing)
    gains = {name: start[name] - measured(nothing | {name: 1.0})[name] for name in names}

    def score(omegas: Mapping[str, float]) -> float:
        found = measured(omegas)
        return sum((found[name] - start[name]) / gains[name] for name in names) / len(names)

    line = min(LINE, key=lambda omega: score({name: omega for name in names}))  # noqa: C420 (mypy reads fromkeys as None)
    searcher = CoordinateSearch(dict.fromkeys(names, line), step=0.2, smallest=0.05, high=1.2)
    while (point := searcher.ask()) is not None:
        searcher.tell(point, score(point))
        step(len(searcher.trials), len(searcher.trials) + 20)
    return searcher.best.point, line, searcher.trials


def _suite(data: Path, folder: Path) -> Path:
    """The demo suite over this build's own data: the shipped one reads the shipped data, which may have another seed."""
    from evaluation.harness import suites

    folder.mkdir(parents=True)
    for file in suites()["demo"].glob("*.yaml"):
        text = (
            file.read_text("utf-8")
            .replace("assets/demo/data", data.resolve().as_posix())
            .replace("demo_", "built_")
        )
        (folder / file.name).write_text(text.replace("group: demo", "group: built"), "utf-8")
    return folder


def _row(label: str, module: Any, tokenizer: Any, test: Prepared, suite: Path) -> dict[str, Any]:
    from evaluation.harness import run
    from evaluation.loss import losses

    scores = {score.task: score for score in run(module, tokenizer, "built", include=[suite])}
    return {
        "label": label,
        "datasets": {
            loss.dataset: {
                "loss": round(loss.value, 4),
                "loss_stderr": round(loss.stderr, 4),
                "accuracy": round(scores[f"built_{loss.dataset}"].value, 4),
                "accuracy_stderr": round(scores[f"built_{loss.dataset}"].stderr, 4),
                "n": loss.n,
            }
            for loss in losses(module, test)
        },
    }


def recipe_of(folder: Path, omegas: Mapping[str, float]) -> Recipe:
    """The demo's composition with these ω, of the checkpoints in a folder."""
    from merging import Recipe, open_recipe, with_identities

    recipe = Recipe.compose(folder / "base", {name: folder / name for name in omegas}, omegas)
    return with_identities(recipe, *open_recipe(recipe))
