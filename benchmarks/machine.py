"""What every benchmark needs: who measured what and where, contenders in turn, cold processes, a table.

Nothing heavy is imported here: a child's peak memory, as the kernel counts it, begins with what its parent held.
"""

import argparse
import importlib.metadata
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parents[1]
MAXRSS = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of ru_maxrss."""
SAMPLE = 0.02
"""Seconds between two looks at a process's anonymous memory."""


class Cost(NamedTuple):
    """What one run took."""

    seconds: float
    peak: int = 0
    """Most resident bytes, mapped files among them, as the kernel counts them (ru_maxrss)."""
    own: int = 0
    """Most resident bytes that no file backs (RssAnon), as sampled; 0 where the system does not tell."""
    cpu: float = 0.0
    """Seconds of all threads, in this process and in the kernel for it; 0 where nobody asked."""


class Spread(NamedTuple):
    """Several measurements of one thing."""

    median: float
    low: float
    high: float

    def text(self, form: str = ".2f") -> str:
        """For a table: median (low–high)."""
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


def begin(
    file: str,
    doc: str | None,
    argv: Sequence[str] | None,
    *,
    rounds: int,
    size: str = "",
    **more: Any,
) -> argparse.Namespace:
    """Read the options of a benchmark, then print its claim and the facts of this run.

    Args:
        file: the benchmark's __file__.
        doc: its docstring, whose first line is the claim.
        argv: the words of the command line; the process's own if None.
        rounds: how often each contender runs, unless the command line says.
        size: one of shapes.SIZES, for a benchmark of weights.
        more: further options, name -> what add_argument takes.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(file).stem}", description=doc
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"how often each is measured ({rounds})"
    )
    if size:
        from benchmarks.shapes import SIZES

        parser.add_argument(
            "--size", choices=SIZES, default=size, help=f"parameters of the model ({size})"
        )
        parser.add_argument(
            "--weights",
            type=Path,
            help="keep the weights in this folder, and use those that it has",
        )
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    options = parser.parse_args(argv)
    print(f"{(doc or '').splitlines()[0]}\n")
    print(facts(" ".join([parser.prog, *(sys.argv[1:] if argv is None else argv)])), flush=True)
    return options


def facts(command: str) -> str:
    """Command, hardware, versions and commit: what is needed to read a figure, or to measure it again."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 1e9
    torch = f"torch {importlib.metadata.version('torch')}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}"
    load = f"load {os.getloadavg()[0]:.1f} before"
    return (
        f"command:  {command}\n"
        f"hardware: {_processor()}, {cores} cores, {memory:.1f} GB RAM, {load}\n"
        f"software: Python {platform.python_version()}, {torch}, {platform.system()} {platform.release()}\n"
        f"commit:   {_commit()}, {time.strftime('%Y-%m-%d')}\n"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _commit() -> str:
    words = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*words, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    if commit.returncode:
        return "not a git checkout"
    changed = subprocess.run(
        [*words, "status", "--porcelain"], capture_output=True, text=True
    ).stdout
    return commit.stdout.strip() + (" with changes" if changed else "")


def in_turn(rounds: int, contenders: Mapping[str, Callable[[], Cost]]) -> dict[str, list[Cost]]:
    """Run all contenders, so many rounds; every other round backwards, so that none always follows the same one."""
    found: dict[str, list[Cost]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            found[name].append(contenders[name]())
    return found


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most."""
    return Spread(statistics.median(values), min(values), max(values))


def seconds(costs: Sequence[Cost]) -> Spread:
    """The seconds of several runs."""
    return spread([cost.seconds for cost in costs])


def cpu(costs: Sequence[Cost]) -> Spread:
    """The seconds that processors worked in several runs."""
    return spread([cost.cpu for cost in costs])


def peak_mb(costs: Sequence[Cost]) -> Spread:
    """The peak memory of several runs, in MB of 10⁶ bytes."""
    return spread([cost.peak / 1e6 for cost in costs])


def ratio(these: Sequence[Cost], those: Sequence[Cost], of: str = "seconds") -> Spread:
    """these/those, round by round: what ran side by side is compared."""
    return spread([getattr(a, of) / getattr(b, of) for a, b in zip(these, those, strict=True)])


def timed(work: Callable[[], object]) -> Cost:
    """Run it once in this process."""
    start, worked = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - start, cpu=time.process_time() - worked)


def timed_on(device: str, work: Callable[[], object]) -> Cost:
    """Run it once in this process, until the device, as torch names it, has done it."""
    import torch

    def finished() -> None:
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    return timed(finished)


def cold(words: Sequence[str | Path], flush: Path | None = None) -> Cost:
    """Run a command as a process of its own, from its start until it has ended.

    Args:
        words: the command.
        flush: a file, or a folder of files, that the command makes; bringing them to the disk is part of its time.

    Raises:
        SystemExit: with what it wrote to stderr, when it fails.
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)
        watch = _Watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(
            status
        )  # else Popen takes it for one that still runs
        if flush is not None:
            sync(flush)
        cost = Cost(time.perf_counter() - start, usage.ru_maxrss * MAXRSS, watch.end())
        if status:
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-2000:]
            raise SystemExit(
                f"{shlex.join(map(str, words))} ended with code {process.returncode}:\n{said}"
            )
    return cost


class _Watch:
    """Looks at a process's anonymous memory until it ends."""

    def __init__(self, number: int) -> None:
        self._status, self._most, self._ended = Path(f"/proc/{number}/status"), 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE):
            try:
                lines = self._status.read_text().splitlines()
            except (
                FileNotFoundError,
                ProcessLookupError,
            ):  # it has ended, or the system has no /proc
                return
            held = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
            self._most = max([self._most, *held])

    def end(self) -> int:
        """The most that was seen."""
        self._ended.set()
        self._thread.join()
        return self._most


def sync(path: Path) -> None:
    """Bring a file, or the files of a folder, to the disk."""
    for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def bar(value: float, most: float, unit: str = "") -> str:
    """A bar for a table, and whether it is met."""
    return f"≤ {most:g}{unit}: {'met' if value <= most else 'missed'}"


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, in Markdown, with its columns aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    for cells in (columns, ["-" * width for width in widths], *rows):
        print(
            "| "
            + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            + " |"
        )
    print(flush=True)
