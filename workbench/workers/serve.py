"""The loop of a worker that takes units out of a folder which it shares with its executor.

    queue/NUMBER-ID.json         a unit that nobody has taken
    taken/WORKER/NUMBER-ID.json  the same file, renamed there by the worker that has taken it
    results/ID.json              its result, renamed into place
    beat                         touched by the executor again and again

A rename on one file system is seen whole or not at all, so no two workers take the same unit, and
nobody reads half a result. No other channel is needed: it works over processes and over the shared
disk of a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from plumbing.atomic import write_whole
from workbench.workers.executor import OpenBench, Seat
from workbench.workers.unit import Unit

QUEUE, TAKEN, RESULTS, BEAT = "queue", "taken", "results", "beat"
PAUSE_SECONDS = 0.05
"""How long a worker without work waits before it looks again."""
PATIENCE_SECONDS = 120
"""A worker leaves if the executor has not touched its file for so long. A network disk may show a
change a minute late."""


class Heart:
    """Tells whether the executor of a folder lives. Its clock is not compared with ours.

    Args:
        folder: of the executor.
        patience: seconds; see PATIENCE_SECONDS.
    """

    def __init__(self, folder: Path, patience: float = PATIENCE_SECONDS) -> None:
        self._file, self._patience = folder / BEAT, patience
        self._seen, self._since = 0, time.monotonic()

    def beats(self) -> bool:
        """Returns whether the file is there and was touched within the patience."""
        try:
            touched = self._file.stat().st_mtime_ns
        except FileNotFoundError:  # the executor was closed
            return False
        now = time.monotonic()
        if touched != self._seen:
            self._seen, self._since = touched, now
        return now - self._since < self._patience


def serve(
    folder: Path,
    name: str,
    seat: Seat,
    open_bench: OpenBench,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Measures units until the executor is closed or gone.

    Args:
        folder: of the executor; see the module.
        name: of this worker; another one that takes its place has another name.
        seat: see Seat.
        open_bench: opens what measures.
        alive: whether to go on, beside the heart of the executor.

    Raises:
        Exception: whatever ended a measurement; the executor finds the unit among those taken.
    """
    from evaluation.errors import Stopped

    heart, taken = Heart(folder), folder / TAKEN / name

    def wanted() -> bool:
        return alive() and heart.beats()

    with open_bench(seat) as bench:
        # Only now: the executor sees by this folder that the worker could begin.
        taken.mkdir()
        while wanted():
            file = _take(folder / QUEUE, taken)
            if file is None:
                time.sleep(PAUSE_SECONDS)
                continue
            unit = Unit.from_json(file.read_text("utf-8"))

            def stale(file: Path = file) -> bool:
                return not (file.exists() and wanted())

            try:
                result = bench.measure(unit, stale)
            except Stopped:
                continue
            write_whole(folder / RESULTS / f"{unit.id}.json", result.to_json())
            file.unlink(missing_ok=True)


def _take(queue: Path, taken: Path) -> Path | None:
    """Takes the oldest unit of a queue; None if there is none."""
    for file in sorted(queue.glob("*.json")):
        mine = taken / file.name
        try:
            file.rename(mine)
        except FileNotFoundError:  # another worker was faster
            continue
        return mine
    return None
