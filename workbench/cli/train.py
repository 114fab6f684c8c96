"""The command that trains by a plan, or says beforehand what that takes."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbing.shell import shell_line, shell_path
from training.run.launch import is_main
from workbench.cli.app import command
from workbench.cli.output import Force, Json, Report, note, report_to
from workbench.cli.shared import ledger_of, progress_bar

if TYPE_CHECKING:
    from training.plan.carry_out import Made, Moment
    from training.run.record import CurvePoint
    from workbench.plans.recorded_run import Watcher


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
    with _stopping(worker) as stop, _watching(worker, stop) as watcher, _ledger(workdir) as ledger:
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


class _Stop:
    """Whether someone asked to stop, and the exit code that says how."""

    def __init__(self) -> None:
        self.code = 0

    def __call__(self) -> bool:
        return self.code != 0


@contextmanager
def _stopping(worker: bool) -> Iterator[_Stop]:
    """Yield the flag that asks to stop after the current update.

    Ctrl-C, SIGTERM and the end of a worker's stdin set it; a second Ctrl-C ends at once.
    """
    stop, before = _Stop(), {}

    def asked(number: int, _: Any) -> None:
        if stop.code and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.code = 128 + number

    def until_stdin_ends() -> None:
        # Not sys.stdin.read: its lock, held at the end, would break the interpreter's exit.
        while os.read(0, 4096):
            pass
        stop.code = stop.code or 143

    if threading.current_thread() is threading.main_thread():
        before = {
            number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)
        }
    if worker:
        threading.Thread(target=until_stdin_ends, name="stdin", daemon=True).start()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watching(worker: bool, stop: _Stop) -> "Iterator[Watcher]":
    """Yield what follows the training: a bar on stderr, or for a worker events on stdout."""
    from workbench.plans.recorded_run import Watcher

    if worker:
        yield Watcher(
            on_moment=lambda moment: _event(moment=moment._asdict()),
            on_point=lambda step, point: (
                _event(log=_point_line(step, point)) if point.validation else None
            ),
            on_step=lambda made: _event(step=_step_line(made)),
            should_stop=stop,
        )
        return
    with progress_bar() if is_main() else nullcontext() as bar:
        task = bar.add_task("reading", total=None) if bar else None

        def on_moment(moment: "Moment") -> None:
            if bar and task is not None:
                words = f"{moment.step} ({moment.number} of {moment.of}), loss {moment.loss:.3f}"
                bar.update(task, description=words, completed=moment.share, total=1)

        yield Watcher(on_moment=on_moment, should_stop=stop)


def _point_line(step: str, point: "CurvePoint") -> str:
    return f"{step}, update {point.step}: validation loss {point.validation_text()}"


def _step_line(made: "Made") -> str:
    return f"{made.ready.name}: done, {made.spent.wall_seconds:.1f} s, {made.spent.tokens:,} tokens"


def _event(**content: Any) -> None:
    typer.echo(json.dumps(content))
    sys.stdout.flush()


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
            _event(error=str(error))
        raise typer.Exit(2) from None


def _ledger(workdir: Path | None) -> AbstractContextManager[Any]:
    """Return the ledger of a workdir, if one is given; in the main process only."""
    return ledger_of(workdir if is_main() else None)


def _leave_group() -> None:
    """Leave the group of processes in order: torch warns of a group that is still open at exit."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
