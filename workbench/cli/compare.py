"""The command that shows checkpoints and compositions side by side."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.app import command
from workbench.cli.output import Force, Json, fail, note, report_to
from workbench.cli.shared import Base, progress_bar, recipe_from, resolver

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.comparison.table import Comparison
    from workbench.jobs.benchmark import BenchmarkRequest
    from workbench.session.models import Models
    from workbench.session.session import Session


@command(
    "Measure",
    "dem compare assets/demo/base assets/demo/cot --data assets/demo/data",
    "dem compare assets/demo/base assets/demo/cot --suite demo --limit 5 --measure",
)
def compare(
    base: Base,
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="Folders or hub ids.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder with DATASET/validation.jsonl per dataset."),
    ] = None,
    workdir: Annotated[
        Path, typer.Option(metavar="DIR", help="Where measurements are kept; the page's workdir.")
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
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Questions per task (default: all).")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure what is missing; without it, missing values are named."
        ),
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Also show what DEM and data mixing cost.")
    ] = False,
    mixed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Which --add models are data-mixing baselines (repeatable; default: all of them).",
        ),
    ] = None,
    vocabulary: Annotated[
        str, typer.Option(metavar="CHOICE", help="If vocabularies differ: refuse or base.")
    ] = "refuse",
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Show losses, scores and costs of all checkpoints and compositions side by side.

    What was measured before comes from the workdir. With --measure the rest is measured now;
    without it the table says what is missing.
    """
    from workbench import commands
    from workbench.comparison.added_models import add as keep
    from workbench.comparison.added_models import read_added
    from workbench.comparison.collect import compare as put_together
    from workbench.comparison.contenders import contenders
    from workbench.comparison.costs import cost_table
    from workbench.jobs.measure_missing import describe, missing_measurements
    from workbench.reports import comparison
    from workbench.session.opening import open_models
    from workbench.session.workdir import Workdir

    report = report_to(json_file, force)
    asked = _benchmark_requests(suite, tasks, limit)
    with resolver() as located:
        first, *rest = [located(reference) for reference in (base, *checkpoints)]
        folders = [located(reference) for reference in add or ()]
    models = open_models(first, [(path, None) for path in rest], data, vocabulary=vocabulary)
    recipes = [_composition(models, file) for file in recipe or ()]
    before = read_added(Workdir(workdir))
    _check_added(before, folders, mixed or ())
    # Who types commands may read what was added before; a page may read below its roots only.
    with _session(workdir, [*folders, *before.values()], stay=measure or bool(add)) as session:
        session.use(models)
        for folder in folders:
            keep(session, folder)

        def look() -> "Comparison":
            rows = contenders(session, recipes=recipes)
            return put_together(session, rows.contenders, notes=rows.notes)

        table = look()
        failed = ""
        if measure and missing_measurements(table, asked):
            options = commands.CompareOptions(
                first,
                rest,
                workdir,
                data=data,
                recipes=recipe or (),
                suite=suite,
                tasks=asked[0].tasks if asked else (),
                limit=limit,
                mixed=mixed,
                vocabulary=vocabulary,
            )
            failed = _measure(session, table, asked, commands.compare(options))
            table = look()
        missing = describe(missing_measurements(table, asked))
        costs = cost_table(session, mixed) if cost else None
        report.show(comparison.comparison(table, missing))
        if missing and not measure:
            report.show("To measure what is missing, run the same command with --measure.")
        if not data and not asked:
            report.show("To compare losses, add --data DIR; to compare scores, add --suite NAME.")
        if costs is not None:
            report.show("\n" + comparison.costs(costs))
        given = {"base": base, "data": data and str(data)}
        more = {} if costs is None else {"cost": costs.as_data()}
        report.write({**given, **table.as_data(), "missing": missing, **more})
    if failed:
        fail(failed)
        raise typer.Exit(2)


def _benchmark_requests(
    suite: str, tasks: str, limit: int | None
) -> "tuple[BenchmarkRequest, ...]":
    """Return the benchmark that every row should have, if one was named.

    Raises:
        TaskError: a suite and tasks, an unknown suite, or a limit without either.
    """
    from evaluation import harness
    from evaluation.errors import TaskError
    from workbench.jobs.benchmark import BenchmarkRequest

    names = tuple(name for name in tasks.split(",") if name)
    if suite and names:
        raise TaskError("give --suite NAME or --tasks A,B, not both")
    if suite and suite not in harness.suites():
        raise TaskError(f"no suite is called {suite!r}; suites here: {', '.join(harness.suites())}")
    if limit and not (suite or names):
        raise TaskError(
            "--limit only applies to a benchmark. Add --suite NAME or --tasks A,B, or leave "
            "--limit out."
        )
    return (BenchmarkRequest(suite, names, limit),) if suite or names else ()


def _composition(models: "Models", file: Path) -> "Recipe":
    """Read a recipe file as a composition of the models that are open.

    Raises:
        SessionError: it takes other models, or makes another dtype than the models have in memory.
    """
    from merging import prepare, with_identities
    from merging.dtypes import DTYPES
    from merging.inputs.hub import probe
    from workbench.comparison.contenders import fits
    from workbench.errors import SessionError

    wanted = recipe_from(file)
    with resolver() as located:
        opened, vectors, _ = prepare(wanted, located, probe=probe)
    final = with_identities(wanted, opened, vectors)
    if not fits(models, final):
        names = ", ".join(final.omegas)
        raise SessionError(
            f"{file} is no composition of the models given here: it takes {names} on "
            f"{final.base}, here are {', '.join(models.names)} on {models.base.path}. "
            "Give the same folders, or merge it and --add its folder."
        )
    named, held = final.out_dtype or final.dtype, next(models.loaded.module.parameters()).dtype
    if named and DTYPES[named] != held:
        raise SessionError(
            f"{file} makes {named}, and compositions are compared in the base's "
            f"{str(held).removeprefix('torch.')}. Merge it and --add its folder, or leave its "
            "dtype out."
        )
    return final


@contextmanager
def _session(workdir: Path, folders: Sequence[Path], stay: bool) -> "Iterator[Session]":
    """Open a session on a workdir.

    If the workdir does not exist and nothing has to be kept, the session gets a temporary one.
    """
    from workbench.session.session import Session

    with TemporaryDirectory(prefix="dem-") as nowhere:
        if not (stay or workdir.exists()):
            note(f"{workdir} does not exist: nothing is stored there")
            workdir = Path(nowhere)
        session = Session(folders, workdir)
        try:
            yield session
        finally:
            session.close()


def _check_added(before: Iterable[str], folders: Sequence[Path], mixed: Sequence[str]) -> None:
    """Check the folders of --add and the names of --mixed before anything is stored.

    Args:
        before: names of the models that were added by earlier calls.
        folders: those of --add.
        mixed: those of --mixed.

    Raises:
        SessionError: a name of --mixed is not the name of an added model.
    """
    from workbench.comparison.added_models import contender_from_folder
    from workbench.errors import SessionError

    added = [
        *before,
        *(contender_from_folder(folder, folder.name).name for folder in folders),
    ]
    if unknown := [name for name in mixed if name not in added]:
        raise SessionError(
            f"--mixed {unknown[0]}: no model of this name was added; added are "
            f"{', '.join(added) or 'none'}."
        )


def _measure(
    session: "Session", table: "Comparison", asked: "Sequence[BenchmarkRequest]", command: str
) -> str:
    """Measure what is missing; return why some of it could not be measured, or "".

    The page shows `command` beside the job.
    """
    from workbench.errors import is_user_error
    from workbench.jobs.measure_missing import submit

    # A job writes its errors to the log, which is for the server. Here the error is printed at the
    # end, so that the log would only repeat it.
    quiet = logging.getLogger("workbench.session.job_table")

    def unexpected(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is None or not is_user_error(error)

    quiet.addFilter(unexpected)
    job = submit(session, table, asked, command)
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
        note(f"stopped; what was measured is kept in {session.workdir.root}")
        raise
    finally:
        quiet.removeFilter(unexpected)
    return job.error if job.state != "done" else ""
