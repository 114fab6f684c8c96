"""Measures the demo: searches ω on the validation split and scores every row on the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus import Example

if TYPE_CHECKING:
    from evaluation.prepared import Prepared
    from evaluation.records.ledger import Ledger
    from evaluation.records.meter import Meter
    from merging import LiveModel, Recipe

LINE = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Values of one ω for all experts that are tried first; the search starts from the best of them."""

Step = Callable[..., None]
"""Called with the steps done and the steps in all."""


def measure(
    data: Mapping[str, Mapping[str, list[Example]]],
    staged: Path,
    experts: Sequence[str],
    scratch: Path,
    part: Callable[[str, float], AbstractContextManager[Step]],
    ledger: Ledger | None,
) -> dict[str, Any]:
    """Searches ω on the validation split and measures every row of the table on the test split.

    Args:
        data: examples by dataset and split.
        staged: the folder with base, experts, the model trained on mixed data, and data.
        experts: names of the experts.
        scratch: an empty folder.
        part: begins a part of the work; takes its name and its share of the whole.
        ledger: where the costs of the search and of the table are recorded.

    Returns:
        What results.json holds: the split, the tuned ω, the number of evaluations, and the rows.
    """
    from evaluation.model import load
    from evaluation.prepared import prepare
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
    # The search starts at the best point of the line, which counts once.
    tried = len(trials) + len(LINE) - 1
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
    with part("measuring", 0.05) as step, measured(ledger, "evaluation", "demo table") as spent:
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
    """Searches the ω that recover, on average over datasets, most of each expert's gain in loss.

    A dataset scores 0 if its loss is the base's and 1 if it is its own expert's, so that a dataset
    with large losses does not dominate the search.

    Args:
        live: the composition.
        zero: the recipe with all ω = 0.
        validation: the examples to score.
        step: called after each point.
        meter: counts the examples.

    Returns:
        The best ω of each expert, the best single ω for all of them, and all trials.
    """
    from evaluation.loss import losses
    from evaluation.search import CoordinateSearch, Space, Trial

    def measured(omegas: Mapping[str, float]) -> dict[str, float]:
        live.apply(zero.with_omegas(omegas))
        results = list(losses(live.module, validation))
        meter.count(
            sum(loss.n for loss in results),
            validation.positions,
            sum(loss.tokens for loss in results),
        )
        return {loss.dataset: loss.value for loss in results}

    names = list(zero.omegas)
    nothing: dict[str, float] = dict.fromkeys(names, 0.0)
    start = measured(nothing)
    gains = {name: start[name] - measured(nothing | {name: 1.0})[name] for name in names}

    def score(omegas: Mapping[str, float]) -> float:
        # Negative shares of the gain, because the searcher minimises.
        loss = measured(omegas)
        return sum((loss[name] - start[name]) / gains[name] for name in names) / len(names)

    # Not dict.fromkeys(names, omega), because mypy reads that as a dictionary of None.
    line = min(LINE, key=lambda omega: score({name: omega for name in names}))  # noqa: C420
    space = Space(dict.fromkeys(names, (0.0, 1.2)))
    searcher = CoordinateSearch(space, dict.fromkeys(names, line), step=0.2, smallest=0.05)
    while (point := searcher.ask()) is not None:
        searcher.tell(Trial(point, score(point)))
        step(len(searcher.trials), len(searcher.trials) + 20)
    assert searcher.best is not None
    return searcher.best.point, line, searcher.trials


def _suite(data: Path, folder: Path) -> Path:
    """Writes the demo suite anew, with the paths of this build's data, and returns its folder.

    The shipped suite reads the shipped data, which may have another seed.
    """
    from evaluation.harness import suites

    folder.mkdir(parents=True)
    for file in suites()["demo"].glob("*.yaml"):
        # Renamed, because lm-eval finds tasks by name and would take the shipped ones.
        text = (
            file.read_text("utf-8")
            .replace("assets/demo/data", data.resolve().as_posix())
            .replace("demo_", "built_")
        )
        (folder / file.name).write_text(text.replace("group: demo", "group: built"), "utf-8")
    return folder


def _row(label: str, module: Any, tokenizer: Any, test: Prepared, suite: Path) -> dict[str, Any]:
    """Returns one row of the table: loss and accuracy of a module on each dataset."""
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
    """Returns the recipe of the demo's composition, for the checkpoints in a folder.

    Args:
        folder: holds `base` and a folder for each expert.
        omegas: name of an expert -> its ω.
    """
    from merging import Recipe, open_recipe, with_identities

    recipe = Recipe.compose(folder / "base", {name: folder / name for name in omegas}, omegas)
    return with_identities(recipe, *open_recipe(recipe))
