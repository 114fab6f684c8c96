"""A search on the command line: its progress, a copy for optuna, its result as text and JSON."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.output import note, warn
from workbench.cli.shared import progress_bar

if TYPE_CHECKING:
    from evaluation.search import Trial
    from evaluation.search.optuna_study import OptunaStudy
    from merging import Recipe
    from workbench.plots.bullets import Gain
    from workbench.search.benchmark_points import ScoreRow
    from workbench.search.running import Search
    from workbench.session.models import Models
    from workbench.session.session import Session

Tables = dict[str, list["Gain"]]
"""Split -> what a composition gives on each dataset."""
NICE = 10
"""How far a search steps back that a page has started."""


def study_of(found: "Search", storage: str) -> "OptunaStudy":
    """Open the study that gets the trials; a search with other settings gets another one.

    Raises:
        StoreError: the storage cannot be opened.
    """
    from evaluation.search.optuna_study import OptunaStudy
    from workbench.session.keys import fingerprint

    wanted, space = found.wanted, found.region.space
    name = f"ω {wanted.aim} {wanted.method} {fingerprint([space.names, wanted.options()])[:8]}"
    return OptunaStudy(storage, name, space)


def carry_out(
    found: "Search", session: "Session", record: Path | None, study: "OptunaStudy | None"
) -> None:
    """Search, with a line of progress; Ctrl-C keeps what was measured."""
    from workbench.search.record import SearchRecord

    budget, kept = found.wanted.budget, SearchRecord(record) if record else None
    # The page on the same machine goes first. Windows has no nice.
    if kept and hasattr(os, "nice"):
        os.nice(NICE)
    try:
        with progress_bar() as bar:
            task = bar.add_task("base and experts", total=budget)
            for step in found.steps():
                score = f", best {step.best.score:.4f}" if step.best else ""
                bar.update(task, description=f"searching{score}", completed=step.spent)
                if kept:
                    kept.write_step(found, session.workdir)
                    kept.add_trial(found, step.trial)
                if study:
                    study.add(step.trial)
    except BaseException:
        note(f"stopped; what was measured is kept in {session.workdir.root}")
        raise
    if kept:
        kept.write_step(found, session.workdir)
    if found.problem:
        warn(found.problem)
    for name in found.at_bounds():
        assert found.best is not None
        note(f"ω of {name} is at its bound, {found.best.point[name]:g}: a wider range may help")


def result_of(
    found: "Search", session: "Session", models: "Models", tables: "Tables"
) -> dict[str, Any]:
    """Return the result as text, and what JSON holds of it.

    Args:
        found: the search, which has measured something.
        session, models: its own.
        tables: what its best composition gives; see on_splits.
    """
    from workbench.reports import search_tables
    from workbench.search.outcome import as_data, front_of, leaning, left_out_r2
    from workbench.search.ranking import ranking

    best, r2, leaned = found.best, left_out_r2(found), leaning(found)
    assert best is not None and found.searcher is not None
    benchmarks = _benchmarks(found, found.recipe_of(best))
    trades = front_of(found) if found.wanted.aim == "front" else []
    # Scores have no answers of single questions to compare.
    ranked = None if benchmarks else ranking(found, session, models)
    parts = [
        f"The best of {len(found.searcher.trials)} compositions ({found.spent:.5g} evaluations, "
        f"{found.points.measured} measured now):",
        search_tables.omegas(best.point),
        *(f"On {name}:\n{search_tables.scores(rows)}" for name, rows in benchmarks.items()),
        *(f"On {name}:\n{search_tables.gains(rows)}" for name, rows in tables.items()),
        f"The front, the lowest mean loss first:\n{search_tables.front(trades)}" if trades else "",
        ranked.words() if ranked else "",
        search_tables.prediction(r2, leaned),
    ]
    return {
        "text": "\n\n".join(filter(None, parts)),
        "omegas": best.point,
        "score": best.score,
        "evaluations": found.spent,
        "measured": found.points.measured,
        "problem": found.problem,
        "at_bounds": found.at_bounds(),
        "ranking": asdict(ranked) | {"sure": ranked.sure} if ranked else None,
        "r2": {name: value if value == value else None for name, value in r2.items()},
        "surrogate": leaned and leaned._asdict(),
        "splits": _as_data(tables),
        "benchmarks": {name: [row._asdict() for row in rows] for name, rows in benchmarks.items()},
        "front": [{"omegas": each.point, "losses": _losses(each)} for each in trades],
        "trials": as_data(found),
    }


def _losses(trial: "Trial") -> dict[str, float]:
    return dict(trial.measured.losses) if trial.measured else {}


def _benchmarks(found: "Search", result: "Recipe") -> dict[str, list["ScoreRow"]]:
    """Return the scores of a composition, if they were the aim, also on all questions."""
    from workbench.search.benchmark_points import BenchmarkPoints

    points = found.points
    if not isinstance(points, BenchmarkPoints) or found.wanted.bench is None:
        return {}
    title = found.wanted.bench.title
    tables = {f"{title} (the search itself measured these questions)": points.table(result)}
    if whole := points.on_all():
        tables["all questions of these tasks"] = whole.table(result)
    return tables


def compared(
    found: "Search", tables: "Tables", plain: "Search", plain_tables: "Tables"
) -> dict[str, Any]:
    """Return a search of another method beside one of task arithmetic, as text and for JSON.

    Without it a method could look good only because its ω were searched.

    Args:
        found, tables: the search, and what its best composition gives; see on_splits.
        plain, plain_tables: those of task arithmetic.
    """
    from workbench.reports import search_tables

    assert found.best is not None and plain.best is not None
    rows = {
        found.wanted.merge.method: (found.best.score, tables),
        plain.wanted.merge.method: (plain.best.score, plain_tables),
    }
    return {
        "text": "With the same budget:\n" + search_tables.methods(rows),
        "omegas": plain.best.point,
        "score": plain.best.score,
        "evaluations": plain.spent,
        "splits": _as_data(plain_tables),
    }


def _as_data(tables: "Tables") -> dict[str, list[dict[str, Any]]]:
    return {name: [asdict(row) for row in rows] for name, rows in tables.items()}


def on_splits(session: "Session", models: "Models", recipe: "Recipe", split: str) -> "Tables":
    """Return what a composition gives on validation, and on another split if it is there."""
    from corpus.jsonl import dataset_files
    from workbench.search.outcome import gains_on

    assert models.data_folder is not None
    tables = {"validation": gains_on(session, models, recipe)}
    if dataset_files(models.data_folder, split):
        tables[split] = gains_on(session, models, recipe, split)
    return tables
