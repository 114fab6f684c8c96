"""Follows a training on the command line, by a bar or a worker's events, and stops it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import typer

from training.run.launch import is_main
from workbench.cli.output import WORKER, event, note
from workbench.cli.shared import progress_bar
from workbench.processes import ending_signals

if TYPE_CHECKING:
    from training.plan.carry_out import Made, Moment
    from training.run.record import CurvePoint
    from workbench.plans.recorded_run import Watcher


class StopFlag:
    """Whether someone asked to stop, and the exit code that says how."""

    def __init__(self) -> None:
        self.code = 0

    def __call__(self) -> bool:
        """Return whether somebody asked to stop."""
        return self.code != 0


@contextmanager
def stopping(worker: bool) -> Iterator[StopFlag]:
    """Yield the flag that asks to stop after the current update.

    Ctrl-C, SIGTERM, a terminal that goes away and the end of a worker's stdin set it; a second
    Ctrl-C ends at once.
    """
    stop, before = StopFlag(), {}

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
        ending = (signal.SIGINT, *ending_signals())
        before = {number: signal.signal(number, asked) for number in ending}
    if worker:
        threading.Thread(target=until_stdin_ends, name="stdin", daemon=True).start()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stoppable() -> Iterator[StopFlag]:
    """Yield the flag that asks to stop, and end the command with its code once it has stopped."""
    from influence.errors import InfluenceStopped
    from training.errors import TrainingStopped

    with stopping(WORKER.get()) as stop:
        try:
            yield stop
        except (InfluenceStopped, TrainingStopped):
            note("stopped; what was done is kept. The same command goes on from there.")
            raise typer.Exit(stop.code or 130) from None


@contextmanager
def watching(worker: bool, stop: StopFlag) -> "Iterator[Watcher]":
    """Yield what follows the training: a bar on stderr, or for a worker events on stdout."""
    from workbench.plans.recorded_run import Watcher

    if worker:
        yield Watcher(
            on_moment=lambda moment: event(moment=moment._asdict()),
            on_point=lambda step, point: (
                event(log=_point_line(step, point)) if point.validation else None
            ),
            on_step=lambda made: event(step=_step_line(made)),
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


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what is called with the work done and the work in all: a bar, or a worker's events."""
    if WORKER.get():
        yield lambda done, total: event(progress={"done": done, "total": total, "what": what})
        return
    with progress_bar() as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _point_line(step: str, point: "CurvePoint") -> str:
    return f"{step}, update {point.step}: validation loss {point.validation_text()}"


def _step_line(made: "Made") -> str:
    return f"{made.ready.name}: done, {made.spent.wall_seconds:.1f} s, {made.spent.tokens:,} tokens"
