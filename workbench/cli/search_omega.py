"""The command that searches ω."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.app import command
from workbench.cli.output import Force, Json, note, report_to, warn
from workbench.cli.shared import RecipeFile, progress_bar, recipe_from, resolver

if TYPE_CHECKING:
    from merging import Recipe
    from workbench.search.running import Search
    from workbench.session.models import Models
    from workbench.session.session import Session

NICE = 10
"""How far a search steps back that a page has started."""


@command(
    "Measure",
    "dem search assets/demo/recipe.yml --data assets/demo/data",
    "dem search assets/demo/recipe.yml --data assets/demo/data --budget 9",
)
def search(
    recipe: RecipeFile,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="A folder with DATASET/validation.jsonl.")
    ],
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="surrogate, gradient, coordinate, greedy, grid, simplex, tpe, gp, nsga or cma.",
        ),
    ] = "surrogate",
    aim: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="share (of each expert's gain), loss (mean) or regret (largest)."
        ),
    ] = "share",
    prefer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=W", help="A dataset's weight in the share; repeatable."),
    ] = None,
    budget: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Evaluations; one with derivatives counts as 3."),
    ] = 40,
    low: Annotated[float, typer.Option(metavar="X", help="The lowest ω.")] = 0.0,
    high: Annotated[float, typer.Option(metavar="X", help="The highest ω.")] = 1.0,
    freeze: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A vector that keeps the recipe's ω; repeatable."),
    ] = None,
    from_recipe: Annotated[
        bool, typer.Option("--from-recipe", help="Begin at the ω of the recipe.")
    ] = False,
    add: Annotated[
        str, typer.Option(metavar="FOLDER", help="One more vector; the others move by --reach.")
    ] = "",
    remove: Annotated[
        str, typer.Option(metavar="NAME", help="A vector to leave out; the others move by --reach.")
    ] = "",
    reach: Annotated[
        float | None,
        typer.Option(metavar="X", help="How far ω of the recipe may move (--add, --remove: 0.2)."),
    ] = None,
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="A dataset may get worse than the base.")
    ] = False,
    levels: Annotated[
        int, typer.Option(metavar="N", min=2, help="Values per ω of grid, greedy and simplex.")
    ] = 6,
    seed: Annotated[int, typer.Option(metavar="N", help="Of random starts.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the best recipe here.")
    ] = None,
    workdir: Annotated[
        Path, typer.Option(metavar="DIR", help="Where measurements are kept; the page's workdir.")
    ] = Path("workdir"),
    report_split: Annotated[
        str,
        typer.Option(metavar="NAME", help="Split of the report; the search never sees it."),
    ] = "test",
    json_file: Json = None,
    force: Force = False,
    record: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Search the ω of a recipe on the validation split, and report the best on the test split.

    Every composition that is measured stays in the workdir. A search that was interrupted goes on
    when the same command is run again.
    """
    from plumbing.suggest import nearest
    from workbench.errors import SessionError
    from workbench.search.running import Search
    from workbench.search.wanted import Wanted

    report = report_to(json_file, force)
    if report_split == "validation":
        raise SessionError(
            "--report-split is the split that the search itself measures, so its best score would "
            "be too good. Give another one, such as test."
        )
    if out is not None and out.exists() and not force:
        raise SessionError(f"{out} exists already. Give another file, or --force.")
    given = recipe_from(recipe)
    before = _plain_omegas(given) if add or remove else None
    if remove and remove not in given.omegas:
        hint = nearest(remove, given.omegas)
        raise SessionError(f"the recipe has no {remove!r} to remove; {hint}")
    wanted = Wanted(
        aim=aim,  # type: ignore[arg-type]
        method=method,  # type: ignore[arg-type]
        budget=budget,
        low=low,
        high=high,
        frozen=(*(freeze or ()), *([remove] if remove else [])),
        reach=0.2 if reach is None and before is not None else reach,
        limited=not unlimited,
        weights=dict(map(_preference, prefer or ())),
        levels=levels,
        seed=seed,
    )
    with _opened(given, add, data, workdir) as (session, models):
        added = models.names[-1] if add else ""
        if from_recipe or wanted.frozen or wanted.reach is not None:
            start = {**_plain_omegas(given), **{name: 0.0 for name in (added, remove) if name}}
            wanted = replace(wanted, start=start, added=added)
        found = Search(session, models, wanted)
        _run(found, session, record)
        best = found.best
        if best is None:
            raise SessionError(found.problem or "no composition could be measured.")
        result = models.recipe(best.point)
        saved = out or session.workdir.save_recipe(result)
        if out is not None:
            _write(result, out)
        shown = _show(found, session, models, result, report_split)
        report.show(shown.pop("text"))
        if before is not None:
            shown["before"] = {"omegas": before, "score": found.score_of(before)}
            report.show(f"\nScore {shown['before']['score']:.4f} before, {best.score:.4f} after")
        report.show(f"\nThe recipe is {saved}")
        report.write({"recipe": str(saved), **shown})


def _preference(text: str) -> tuple[str, float]:
    """Return the dataset and the weight of NAME=W.

    Raises:
        SessionError: it has another form.
    """
    from workbench.errors import SessionError

    name, _, weight = text.rpartition("=")
    try:
        return name, float(weight)
    except ValueError:
        raise SessionError(f"--prefer is {text!r}, expected NAME=W such as cot=2.") from None


def _plain_omegas(recipe: "Recipe") -> dict[str, float]:
    """Return the ω of a recipe.

    Raises:
        SessionError: one is no single number.
    """
    from workbench.errors import SessionError

    for name, omega in recipe.omegas.items():
        if not isinstance(omega, int | float):
            raise SessionError(f"ω of {name} is no single number, so a search cannot begin there.")
    return {name: float(omega) for name, omega in recipe.omegas.items()}


@contextmanager
def _opened(
    recipe: "Recipe", add: str, data: Path, workdir: Path
) -> "Iterator[tuple[Session, Models]]":
    """Open a session with the models of a recipe, and perhaps one more.

    Raises:
        SessionError: the recipe is no plain sum of vectors of one base.
    """
    from workbench.errors import SessionError
    from workbench.session.opening import open_models
    from workbench.session.session import Session
    from workbench.session.standing import PLAIN

    if recipe.slices or recipe.include or recipe.exclude:
        raise SessionError(
            "a search composes whole vectors, and this recipe has slices or filters of tensors."
        )
    if recipe.method != PLAIN.method or recipe.parameters or recipe.base is None:
        raise SessionError(
            f"a search composes Θ + Σ ωᵢ Δᵢ, and this recipe has the method {recipe.method}. "
            "Merge it, and search ω of its result, which is λ; or name the models in a recipe with "
            "task_arithmetic."
        )
    with resolver() as located:
        base = located(recipe.base)
        checkpoints: list[tuple[Path, str | None]] = [
            (located(each.lora or each.location), each.name) for each in recipe.models
        ]
        checkpoints += [(located(add), None)] if add else []
    models = open_models(base, checkpoints, data, vocabulary=recipe.vocabulary)
    session = Session([base, *(path for path, _ in checkpoints), data], workdir)
    try:
        session.use(models)
        yield session, models
    finally:
        session.close()


def _run(found: "Search", session: "Session", record: Path | None) -> None:
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
                    kept.write_step(found)
    except BaseException:
        note(f"stopped; what was measured is kept in {session.workdir.root}")
        raise
    if kept:
        kept.write_step(found)
    if found.problem:
        warn(found.problem)
    for name in found.at_bounds():
        assert found.best is not None
        note(f"ω of {name} is at its bound, {found.best.point[name]:g}: a wider range may help")


def _show(
    found: "Search", session: "Session", models: "Models", result: "Recipe", split: str
) -> dict[str, Any]:
    """Return the result as text, and what JSON holds of it."""
    from corpus.jsonl import dataset_files
    from workbench.reports import search_tables
    from workbench.search.outcome import as_data, gains_on, left_out_r2

    best, r2 = found.best, left_out_r2(found)
    assert best is not None and found.searcher is not None and models.data_folder is not None
    tables = {"validation": gains_on(session, models, result)}
    if dataset_files(models.data_folder, split):
        tables[split] = gains_on(session, models, result, split)
    else:
        note(f"no dataset has {split}.jsonl, so the best ω are reported on validation only")
    parts = [
        f"The best of {len(found.searcher.trials)} compositions ({found.spent} evaluations, "
        f"{found.points.measured} measured now):",
        search_tables.omegas(best.point),
        *(f"On {name}:\n{search_tables.gains(rows)}" for name, rows in tables.items()),
        search_tables.prediction(r2),
    ]
    return {
        "text": "\n\n".join(filter(None, parts)),
        "omegas": best.point,
        "score": best.score,
        "evaluations": found.spent,
        "measured": found.points.measured,
        "problem": found.problem,
        "at_bounds": found.at_bounds(),
        "r2": {name: value if value == value else None for name, value in r2.items()},
        "splits": {name: [asdict(row) for row in rows] for name, rows in tables.items()},
        "trials": as_data(found),
    }


def _write(recipe: "Recipe", file: Path) -> None:
    """Write a recipe to a file."""
    from merging import recipe_yaml
    from plumbing.atomic import write_whole

    write_whole(file, recipe_yaml(recipe))
