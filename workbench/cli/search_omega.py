"""The command that searches ω."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.app import command
from workbench.cli.output import Force, Json, note, report_to
from workbench.cli.search_inputs import bench_of, method_of, opened, plain_omegas, preference, span
from workbench.cli.searching import (
    carry_out,
    compared,
    on_splits,
    result_of,
    study_of,
)
from workbench.cli.shared import RecipeFile, recipe_from

if TYPE_CHECKING:
    from merging import Recipe


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
            metavar="NAME",
            help="share (of each expert's gain), loss (mean), regret (largest), score or front.",
        ),
    ] = "share",
    prefer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=W", help="A dataset's weight in the share; repeatable."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(metavar="A,B", help="Tasks of lm-eval for the aim score.")
    ] = "",
    suite: Annotated[
        str, typer.Option(metavar="NAME", help="A suite of local tasks for the aim score.")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Questions per task (default: all).")
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
    groups: Annotated[
        str,
        typer.Option(metavar="BY", help="An ω for each group of layers: by depth, or by part."),
    ] = "",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=LOW:HIGH]", help="Search a number of the merge method too; repeatable."
        ),
    ] = None,
    sum_at_most: Annotated[
        float | None, typer.Option(metavar="X", help="The highest sum of all ω.")
    ] = None,
    norm_at_most: Annotated[
        float | None, typer.Option(metavar="X", help="The highest norm of the edit, of the base's.")
    ] = None,
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="A dataset may get worse than the base.")
    ] = False,
    few_first: Annotated[
        bool,
        typer.Option("--few-first", help="Measure all examples only of what may be the best."),
    ] = False,
    alone: Annotated[
        bool, typer.Option("--alone", help="Learn nothing from what others measured before.")
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
    storage: Annotated[
        str,
        typer.Option(metavar="URL|FILE", help="Copy the trials here, for optuna-dashboard."),
    ] = "",
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Points at a time, each by its own process.")
    ] = 1,
    ray: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The workers are actors of this Ray cluster.")
    ] = "",
    submitit: Annotated[
        str,
        typer.Option(metavar="PARTITION", help="The workers are jobs of Slurm, or 'local' ones."),
    ] = "",
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
    from workbench.search.record import SearchRecord
    from workbench.search.running import Search
    from workbench.search.unit_bench import open_bench
    from workbench.search.wanted import Wanted
    from workbench.session.standing import PLAIN
    from workbench.session.workdir import Workdir
    from workbench.workers.choice import executor_for

    report = report_to(json_file, force)
    if report_split == "validation":
        raise SessionError(
            "--report-split is the split that the search itself measures, so its best score would "
            "be too good. Give another one, such as test."
        )
    if out is not None and out.exists() and not force:
        raise SessionError(f"{out} exists already. Give another file, or --force.")
    given = recipe_from(recipe)
    before = plain_omegas(given) if add or remove else None
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
        weights=dict(map(preference, prefer or ())),
        levels=levels,
        seed=seed,
        merge=method_of(given),
        vary=dict(map(span, vary or ())),
        groups=groups,  # type: ignore[arg-type]
        highest_sum=sum_at_most,
        highest_norm=norm_at_most,
        alone=alone,
        screened=few_first,
        bench=bench_of(tasks, suite, limit),
    )
    # Before the models are opened, so that a wrong address is told at once.
    executor = executor_for(workers, ray, submitit, Workdir(workdir).units, open_bench)
    with (
        executor or nullcontext(),
        opened(given, add, data, workdir) as (session, models),
    ):
        added = models.names[-1] if add else ""
        if from_recipe or wanted.frozen or wanted.reach is not None:
            start = {**plain_omegas(given), **{name: 0.0 for name in (added, remove) if name}}
            wanted = replace(wanted, start=start, added=added)
        found = Search(session, models, wanted, executor)
        carry_out(found, session, record, study_of(found, storage) if storage else None)
        if executor:
            executor.close()
        best = found.best
        if best is None:
            raise SessionError(found.problem or "no composition could be measured.")
        result = found.recipe_of(best)
        saved = out or session.workdir.save_recipe(result)
        if out is not None:
            _write(result, out)
        tables = on_splits(session, models, result, report_split)
        if report_split not in tables:
            missing = f"no dataset has {report_split}.jsonl"
            note(f"{missing}, so the best ω are reported on validation only")
        shown = result_of(found, session, models, tables)
        report.show(shown.pop("text"))
        if before is not None:
            shown["before"] = {"omegas": before, "score": found.score_of(before)}
            report.show(f"\nScore {shown['before']['score']:.4f} before, {best.score:.4f} after")
        if wanted.merge.method != PLAIN.method:
            plain = Search(session, models, replace(wanted, merge=PLAIN, vary={}))
            kept = SearchRecord(record) if record else None
            if kept:
                kept.write_problem("Task arithmetic is searched now with the same budget")
            carry_out(plain, session, None, None)
            if kept:
                kept.write_step(found, session.workdir)
            if plain.best is not None:
                theirs = on_splits(session, models, plain.recipe_of(plain.best), report_split)
                shown["task_arithmetic"] = compared(found, tables, plain, theirs)
                report.show("\n" + shown["task_arithmetic"].pop("text"))
        report.show(f"\nThe recipe is {saved}")
        report.write({"recipe": str(saved), **shown})


def _write(recipe: "Recipe", file: Path) -> None:
    """Write a recipe to a file."""
    from merging import recipe_yaml
    from plumbing.atomic import write_whole

    write_whole(file, recipe_yaml(recipe))
