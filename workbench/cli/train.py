"""The command that trains: a plan carried out, or looked at before."""

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

from workbench.cli.app import app
from workbench.cli.shared import Json, ledger_of, progress_bar, say, write_json

if TYPE_CHECKING:
    from training.plan.carry_out import Made, Moment
    from training.run.record import CurvePoint
    from workbench.plans.recorded_run import Watcher


@app.command()
def train(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A plan, a YAML file: see docs/training.md.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder of its steps; may hold some already.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a step that was begun and not finished.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it takes; nothing is trained or kept.")
    ] = False,
    workdir: Annotated[
        Path | None,
        typer.Option(help="Keep the cost in this workdir's ledger, and estimate times from it."),
    ] = None,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
    json_file: Json = None,
) -> None:
    """Fine-tune by a plan: one checkpoint per source, or any schedule of steps.

    On several devices: accelerate launch --no_python dem train PLAN OUT. Stop it with Ctrl-C: the whole state is
    saved, and --resume goes on from there.
    """
    with _one_message(worker):
        if dry_run:
            _look(plan, out, resume, workdir, json_file)
        else:
            _train(plan, out, resume, workdir, worker, json_file)


def _look(
    plan: Path, out: Path, resume: bool, workdir: Path | None, json_file: Path | None
) -> None:
    from training.plan.plan_file import read_plan
    from workbench.plans.outlook import outlook
    from workbench.reports import training

    with _ledger(workdir) as ledger:
        found = outlook(read_plan(plan), out, ledger, resume=resume)
    if _is_main():
        typer.echo(training.outlook(found))
        write_json(
            json_file, {"plan": str(plan), "out": str(out), **training.outlook_as_data(found)}
        )


def _train(
    plan: Path, out: Path, resume: bool, workdir: Path | None, worker: bool, json_file: Path | None
) -> None:
    from training.errors import TrainingStopped
    from training.plan.plan_file import read_plan
    from workbench.plans.recorded_run import run_recorded
    from workbench.reports import training

    read = read_plan(plan)
    with _stopping(worker) as stop, _told(worker, stop) as watcher, _ledger(workdir) as ledger:
        try:
            made = run_recorded(read, out, watcher, resume=resume, ledger=ledger)
        except TrainingStopped:
            if _is_main() and not worker:
                say(
                    f"stopped; the whole state is saved in {out}. The same command with --resume goes on from there."
                )
            raise typer.Exit(stop.code or 130) from None
    _leave_group()
    if _is_main():
        if not worker:
            typer.echo(training.made(made))
        write_json(
            json_file, {"plan": str(plan), "out": str(out), "steps": training.made_as_data(made)}
        )


class _Stop:
    """Whether someone asked to stop, and the exit code that says how."""

    def __init__(self) -> None:
        self.code = 0

    def __call__(self) -> bool:
        return self.code != 0


@contextmanager
def _stopping(worker: bool) -> Iterator[_Stop]:
    """Ctrl-C, SIGTERM, and the end of a worker's stdin ask to stop after the current update; a second Ctrl-C ends at once."""
    stop, before = _Stop(), {}

    def asked(number: int, _: Any) -> None:
        if stop.code and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.code = 128 + number

    def until_stdin_ends() -> None:
        while os.read(
            0, 4096
        ):  # not sys.stdin.read: its lock, held at the end, would break the interpreter's exit
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
def _told(worker: bool, stop: _Stop) -> "Iterator[Watcher]":
    """A bar on stderr; or, from a worker, events on stdout."""
    from workbench.plans.recorded_run import Watcher

    if worker:
        yield Watcher(
            on_moment=lambda moment: _event(moment=moment._asdict()),
            on_point=lambda step, point: (
                _event(log=_in_words(step, point)) if point.validation else None
            ),
            on_step=lambda made: _event(step=_done(made)),
            should_stop=stop,
        )
        return
    with progress_bar() if _is_main() else nullcontext() as bar:
        task = bar.add_task("reading", total=None) if bar else None

        def on_moment(moment: "Moment") -> None:
            if bar and task is not None:
                words = f"{moment.step} ({moment.number} of {moment.of}), loss {moment.loss:.3f}"
                bar.update(task, description=words, completed=moment.share, total=1)

        yield Watcher(on_moment=on_moment, should_stop=stop)


def _in_words(step: str, point: "CurvePoint") -> str:
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in point.validation.items())
    return f"{step}, update {point.step}: validation loss {losses}"


def _done(made: "Made") -> str:
    return f"{made.ready.name}: done, {made.spent.wall_seconds:.1f} s, {made.spent.tokens:,} tokens"


def _event(**content: Any) -> None:
    typer.echo(json.dumps(content))
    sys.stdout.flush()


@contextmanager
def _one_message(worker: bool) -> Iterator[None]:
    """What is wrong is said by the main process alone; of a worker as an event. Every process ends with code 2."""
    from workbench.errors import is_user_error

    try:
        yield
    except Exception as error:
        if not is_user_error(error) or (_is_main() and not worker):
            raise
        if _is_main():
            _event(error=str(error))
        raise typer.Exit(2) from None


def _ledger(workdir: Path | None) -> AbstractContextManager[Any]:
    """The ledger of a workdir, if one is given; in the main process only."""
    return ledger_of(workdir if _is_main() else None)


def _leave_group() -> None:
    """Several processes part in order: torch warns of a group that is left standing."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
