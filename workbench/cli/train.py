"""The command that trains by a plan, or says beforehand what that takes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbing.shell import shell_line, shell_path
from training.run.launch import is_main
from workbench.cli.app import command
from workbench.cli.following import stopping, watching
from workbench.cli.output import Force, Json, Report, event, note, report_to
from workbench.cli.shared import ledger_of

if TYPE_CHECKING:
    pass


@command(
    "Train",
    """echo 'base: assets/demo/base
sources: {sni: assets/demo/data/sni}
settings: {steps: 5, batch: 8}
schedule: {kind: experts}' > plan.yml""",
    "dem train plan.yml trained --dry-run",
    "dem train plan.yml trained --workdir workdir",
)
def train(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A plan, a YAML file: see docs/training.md.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder of its steps; may hold some already.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a step that was started and not finished.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it takes; nothing is trained or kept.")
    ] = False,
    workdir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the cost in this workdir's ledger, and estimate times from it.",
        ),
    ] = None,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
    root: Annotated[list[Path] | None, typer.Option("--root", hidden=True)] = None,
    json_file: Json = None,
    force: Force = False,
) -> None:
    """Fine-tune by a plan: one checkpoint per source, or any schedule of steps.

    On several devices: accelerate launch --no_python dem train PLAN OUT. Ctrl-C saves the whole
    state, and --resume continues from it.
    """
    with _one_message(worker):
        report = report_to(json_file, force)
        _refuse_recipe(plan)
        if dry_run:
            _dry_run(plan, out, resume, workdir, report)
        else:
            _train(plan, out, resume, workdir, worker, report, roots=root)


def _refuse_recipe(plan: Path) -> None:
    """Refuse a merge recipe in the place of a plan, with the command that takes it.

    Raises:
        SessionError: the file has the key merge_method. Anything else is left to `read_plan`.
    """
    from plumbing import strict_yaml
    from workbench.errors import SessionError

    try:
        document = strict_yaml.parse(plan.read_text("utf-8")).value
    except (OSError, UnicodeDecodeError):
        return
    if isinstance(document, dict) and "merge_method" in document and "sources" not in document:
        raise SessionError(
            f"{plan} looks like a merge recipe (merge_method). dem train needs a plan; to merge, "
            f"run: {shell_line(['dem', 'merge', shell_path(plan), 'OUT'])}"
        )


def _dry_run(plan: Path, out: Path, resume: bool, workdir: Path | None, report: Report) -> None:
    from training.plan.plan_file import read_plan
    from workbench.plans.outlook import outlook
    from workbench.reports import training

    with _ledger(workdir) as ledger:
        steps = outlook(read_plan(plan), out, ledger, resume=resume)
    if is_main():
        report.show(training.outlook(steps))
        files = {"plan": str(plan), "out": str(out)}
        report.write({**files, **training.outlook_as_data(steps)})


def _train(
    plan: Path,
    out: Path,
    resume: bool,
    workdir: Path | None,
    worker: bool,
    report: Report,
    *,
    roots: list[Path] | None,
) -> None:
    """Train by a plan; `roots` are the folders that the page may read, None at the command line."""
    from corpus.reach import ANYWHERE, Reach
    from training.errors import TrainingStopped
    from training.plan.plan_file import read_plan
    from workbench.plans.recorded_run import run_recorded
    from workbench.reports import training

    # Compared as real paths; a worker's plan came from a page, which asks no hub.
    real = tuple(root.resolve() for root in roots or ())
    read = read_plan(plan, Reach(real, hub=False) if worker or roots else ANYWHERE)
    with stopping(worker) as stop, watching(worker, stop) as watcher, _ledger(workdir) as ledger:
        try:
            made = run_recorded(read, out, watcher, resume=resume, ledger=ledger)
        except TrainingStopped:
            if is_main() and not worker:
                note(
                    f"stopped; the whole state is saved in {out}. The same command with --resume "
                    "goes on from there."
                )
            raise typer.Exit(stop.code or 130) from None
    _leave_group()
    if is_main():
        if not worker:
            report.show(training.made(made))
        steps = training.made_as_data(made)
        report.write({"plan": str(plan), "out": str(out), "steps": steps})


@contextmanager
def _one_message(worker: bool) -> Iterator[None]:
    """Let the main process alone report an error, as a message or as an event of a worker.

    Every process ends with code 2.
    """
    from workbench.errors import is_user_error

    try:
        yield
    except Exception as error:
        if not is_user_error(error) or (is_main() and not worker):
            raise
        if is_main():
            event(error=str(error))
        raise typer.Exit(2) from None


def _ledger(workdir: Path | None) -> AbstractContextManager[Any]:
    """Return the ledger of a workdir, if one is given; in the main process only."""
    return ledger_of(workdir if is_main() else None)


def _leave_group() -> None:
    """Leave the group of processes in order: torch warns of a group that is still open at exit."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
