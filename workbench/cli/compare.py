"""The command that puts checkpoints and compositions side by side."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.app import app
from workbench.cli.shared import Json, progress_bar, resolver, say, write_json

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.comparison.table import Comparison
    from workbench.jobs.benchmark import Asked
    from workbench.session.models import Models
    from workbench.session.session import Session


@app.command()
def compare(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A folder, or a hub id: org/name@revision.")
    ],
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="Folders or hub ids.")
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder with <dataset>/validation.jsonl.")
    ] = None,
    workdir: Annotated[
        Path, typer.Option(help="Where measurements are kept, as of the page.")
    ] = Path("workdir"),
    recipe: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A composition of these models; repeatable."),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER", help="Another model, kept in the workdir's comparisons; repeatable."
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(metavar="NAME", help="A suite that every row should have.")
    ] = "",
    tasks: Annotated[
        str, typer.Option(metavar="A,B", help="Tasks of lm-eval that every row should have.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per task.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure what is missing; else it is only named.")
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="What DEM and data mixing cost, too.")
    ] = False,
    mixed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An added model that was trained on mixed data; repeatable; all if not given.",
        ),
    ] = None,
    vocabulary: Annotated[
        str, typer.Option(help="Where vocabularies differ: refuse or base.")
    ] = "refuse",
    json_file: Json = None,
) -> None:
    """Losses, benchmark scores and costs of all checkpoints and compositions, side by side."""
    from workbench.comparison.added_models import add as keep
    from workbench.comparison.collect import compare as put_together
    from workbench.comparison.contenders import contenders
    from workbench.comparison.costs import cost_table
    from workbench.jobs.measure_missing import in_words, steps
    from workbench.reports import comparison
    from workbench.session.opening import open_models

    asked = _asked(suite, tasks, limit)
    with resolver() as located:
        first, *rest = [located(reference) for reference in (base, *checkpoints)]
        folders = [located(reference) for reference in add or ()]
    models = open_models(first, [(path, None) for path in rest], data, vocabulary=vocabulary)
    recipes = [_recipe(models, file) for file in recipe or ()]
    _check(workdir, folders, mixed or ())
    with _session(workdir, folders, stay=measure or bool(add)) as session:
        session.use(models)
        for folder in folders:
            keep(session, folder)

        def look() -> "Comparison":
            found = contenders(session, recipes=recipes)
            return put_together(session, found.contenders, notes=found.notes)

        table = look()
        failed = _measured(session, table, asked) if measure and steps(table, asked) else ""
        table = look() if measure else table
        missing = in_words(steps(table, asked))
        costs = cost_table(session, mixed) if cost else None
        typer.echo(comparison.comparison(table, missing))
        if missing and not measure:
            typer.echo("--measure measures it")
        if costs is not None:
            typer.echo("\n" + comparison.costs(costs))
        more = {} if costs is None else {"cost": costs.as_data()}
        write_json(
            json_file,
            {
                "base": base,
                "data": data and str(data),
                **table.as_data(),
                "missing": missing,
                **more,
            },
        )
    if failed:
        say(failed)
        raise typer.Exit(2)


def _asked(suite: str, tasks: str, limit: int | None) -> "tuple[Asked, ...]":
    """The benchmark that every row should have, if one was named."""
    from evaluation import harness
    from evaluation.errors import TaskError
    from workbench.jobs.benchmark import Asked

    names = tuple(name for name in tasks.split(",") if name)
    if suite and names:
        raise TaskError("give --suite NAME or --tasks A,B, not both")
    if suite and suite not in harness.suites():
        raise TaskError(f"no suite is called {suite!r}; suites here: {', '.join(harness.suites())}")
    if limit and not (suite or names):
        raise TaskError(
            f"--limit {limit} is of a benchmark; name one by --suite NAME or --tasks A,B"
        )
    return (Asked(suite, names, limit),) if suite or names else ()


def _recipe(models: "Models", file: Path) -> "Recipe":
    """A recipe file as a composition of what is open."""
    from merging import prepare, with_identities
    from merging.dtypes import DTYPES
    from merging.inputs.hub import probe
    from merging.recipe import read_recipe
    from workbench.comparison.contenders import fits
    from workbench.errors import SessionError

    wanted = read_recipe(file)
    with resolver() as located:
        opened, vectors, _ = prepare(wanted, located, ask=probe)
    final = with_identities(wanted, opened, vectors)
    if not fits(models, final):
        names = ", ".join(final.omegas)
        raise SessionError(
            f"{file} is no composition of the models given here: it takes {names} on {final.base}, here are "
            f"{', '.join(models.names)} on {models.base.path}. Give the same folders, or merge it and --add its folder."
        )
    named, held = final.out_dtype or final.dtype, next(models.loaded.module.parameters()).dtype
    if named and DTYPES[named] != held:
        raise SessionError(
            f"{file} makes {named}, and compositions are compared in the base's {str(held).removeprefix('torch.')}. "
            "Merge it and --add its folder, or leave its dtype out."
        )
    return final


@contextmanager
def _session(workdir: Path, folders: Sequence[Path], stay: bool) -> "Iterator[Session]":
    """A session on a workdir; where there is none and nothing is to be kept, on one that is gone afterwards."""
    from workbench.session.session import Session

    with TemporaryDirectory(prefix="dem-") as nowhere:
        if not (stay or workdir.exists()):
            say(f"{workdir} does not exist: nothing is stored there")
            workdir = Path(nowhere)
        session = Session(folders, workdir)
        try:
            yield session
        finally:
            session.close()


def _check(workdir: Path, folders: Sequence[Path], mixed: Sequence[str]) -> None:
    """Refuse folders that cannot be compared, and names of --mixed that are no added model's, before anything is kept."""
    from workbench.comparison.added_models import added, of_folder
    from workbench.errors import SessionError
    from workbench.session.workdir import Workdir

    have = [*added(Workdir(workdir)), *(of_folder(folder, folder.name).name for folder in folders)]
    if unknown := [name for name in mixed if name not in have]:
        raise SessionError(
            f"--mixed {unknown[0]}: no model of this name was added; added are {', '.join(have) or 'none'}."
        )


def _measured(session: "Session", table: "Comparison", asked: "Sequence[Asked]") -> str:
    """Measure what is missing; why some of it could not be, or nothing."""
    from workbench.errors import is_user_error
    from workbench.jobs.measure_missing import submit

    # a job's log is the server's: here its error is told at the end, in its own words
    quiet = logging.getLogger("workbench.session.job_table")

    def unexpected(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is None or not is_user_error(error)

    quiet.addFilter(unexpected)
    job = submit(session, table, asked)
    try:
        with progress_bar() as bar:
            task = bar.add_task("measuring")
            while job.active:
                time.sleep(0.1)
                job = session.jobs.get(job.id)
                bar.update(
                    task,
                    description=job.message or "measuring",
                    completed=job.done,
                    total=job.total or None,
                )
    except BaseException:  # Ctrl-C or SIGTERM; closing the session stops the job
        say(f"stopped; what was measured is kept in {session.workdir}")
        raise
    finally:
        quiet.removeFilter(unexpected)
    return job.error if job.state != "done" else ""
