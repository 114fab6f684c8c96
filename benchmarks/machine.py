"""What every benchmark needs: the facts of a run, contenders in turn, cold processes, tables.

Nothing heavy is imported here, because the kernel counts a child's peak memory from the moment of
the fork, when the child still holds what its parent held.
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
DEMO = ROOT / "assets" / "demo"
MAXRSS = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of ru_maxrss: macOS counts bytes, Linux KiB."""
SAMPLE = 0.02
"""Seconds between two samples of a process's anonymous memory."""


class Cost(NamedTuple):
    """The time and memory of one run.

    Attributes:
        seconds: wall-clock time.
        peak: peak resident bytes with mapped files, as the kernel counts them (ru_maxrss); 0 if not
            measured.
        own: peak resident bytes that no file backs (RssAnon), sampled; 0 if not measured, or if the
            system has no /proc.
        cpu: CPU seconds of all threads of this process, in user space and in the kernel; 0 if not
            measured.
    """

    seconds: float
    peak: int = 0
    own: int = 0
    cpu: float = 0.0


class Spread(NamedTuple):
    """Median, lowest and highest of several measurements of one thing."""

    median: float
    low: float
    high: float

    def text(self, form: str = ".2f") -> str:
        """Return the text for a table: median (low–high), each in the format `form`."""
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
    """Parse the options of a benchmark, then print its claim and the facts of this run.

    Args:
        file: the benchmark's __file__.
        doc: its docstring, whose first line is the claim.
        argv: the arguments of the command line; those of this process if None.
        rounds: how often each contender runs by default.
        size: the default of --size, one of shapes.SIZES; "" for a benchmark without --size.
        more: further options: name -> keyword arguments of `add_argument`.

    Returns:
        The options: `rounds`, those of `more`, and with `size` also `size` and `weights`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(file).stem}", description=doc
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"runs of each contender (default: {rounds})"
    )
    if size:
        from benchmarks.shapes import SIZES

        parser.add_argument(
            "--size", choices=SIZES, default=size, help=f"parameters of the model (default: {size})"
        )
        parser.add_argument(
            "--weights",
            type=Path,
            help="keep the weights in this folder, and reuse those in it",
        )
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    options = parser.parse_args(argv)
    print(f"{(doc or '').splitlines()[0]}\n")
    print(facts(" ".join([parser.prog, *(sys.argv[1:] if argv is None else argv)])), flush=True)
    return options


def number(value: int, text: str) -> dict[str, Any]:
    """Return the settings of an option that is a whole number, for `begin`."""
    return {"type": int, "default": value, "help": f"{text} (default: {value})"}


def records(demo: Path, split: str, count: int) -> list[Any]:
    """Return the first records of all datasets of a demo in turn, `count` in all."""
    from corpus import read_datasets

    datasets = read_datasets(demo / "data", split).values()
    return [record for row in zip(*datasets, strict=False) for record in row][:count]


def facts(command: str) -> str:
    """Return command, hardware, versions and commit: what it takes to repeat a measurement."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 1e9
    threads = f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}"
    # From the metadata: importing torch would add its memory to that of every child.
    torch = f"torch {importlib.metadata.version('torch')}, {threads}"
    system = f"{platform.system()} {platform.release()}"
    load = f"load {os.getloadavg()[0]:.1f} before"
    return (
        f"command:  {command}\n"
        f"hardware: {_cpu_model()}, {cores} cores, {memory:.1f} GB RAM, {load}\n"
        f"software: Python {platform.python_version()}, {torch}, {system}\n"
        f"commit:   {_commit()}, {time.strftime('%Y-%m-%d')}\n"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if commit.returncode:
        return "not a git checkout"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout
    return commit.stdout.strip() + (" with changes" if changed else "")


def in_turn(rounds: int, contenders: Mapping[str, Callable[[], Cost]]) -> dict[str, list[Cost]]:
    """Run all contenders in turn, and return the costs of each, one per round.

    Args:
        rounds: how often each contender runs.
        contenders: name -> function that runs the contender once.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for number in range(rounds):
        # Every other round runs in reverse order, so that no contender always follows the same one
        # and finds what that one left in the caches.
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            costs[name].append(contenders[name]())
    return costs


def spread(values: Sequence[float]) -> Spread:
    """Return the median, the lowest and the highest of some values."""
    return Spread(statistics.median(values), min(values), max(values))


def seconds(costs: Sequence[Cost]) -> Spread:
    """Return the wall-clock seconds of several runs."""
    return spread([cost.seconds for cost in costs])


def cpu(costs: Sequence[Cost]) -> Spread:
    """Return the CPU seconds of several runs."""
    return spread([cost.cpu for cost in costs])


def peak_mb(costs: Sequence[Cost]) -> Spread:
    """Return the peak memory of several runs, in MB of 10⁶ bytes."""
    return spread([cost.peak / 1e6 for cost in costs])


def ratio(these: Sequence[Cost], those: Sequence[Cost], of: str = "seconds") -> Spread:
    """Return these/those, computed within each round.

    A change of the machine's speed from round to round then affects both sides of a ratio.

    Args:
        these: the numerator, one cost per round.
        those: the denominator, from the same rounds.
        of: the field of Cost that is compared.
    """
    return spread([getattr(a, of) / getattr(b, of) for a, b in zip(these, those, strict=True)])


def timed(work: Callable[[], object]) -> Cost:
    """Run a function once in this process, and return its time and CPU time."""
    start, worked = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - start, cpu=time.process_time() - worked)


def timed_on(device: str, work: Callable[[], object]) -> Cost:
    """Run a function once in this process, and wait until its work on the device is done.

    Args:
        device: as torch names it, such as "cuda:0".
        work: the function.
    """
    import torch

    def finish() -> None:
        work()
        # CUDA's operators return before the device has computed anything.
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    return timed(finish)


def cold(words: Sequence[str | Path], flush: Path | None = None) -> Cost:
    """Run a command in its own process, and return its cost from its start to its end.

    Args:
        words: the command and its arguments.
        flush: a file, or a folder of files, that the command makes. Flushing them to the disk
            counts in its time.

    Raises:
        SystemExit: the command failed; the message has the end of its stderr.
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)
        sampler = _MemorySampler(process.pid)
        # Popen.wait gives no resource usage, and RUSAGE_CHILDREN is the maximum over all children.
        _, status, usage = os.wait4(process.pid, 0)
        # Otherwise Popen would believe that the process still runs.
        process.returncode = os.waitstatus_to_exitcode(status)
        if flush is not None:
            sync(flush)
        cost = Cost(time.perf_counter() - start, usage.ru_maxrss * MAXRSS, sampler.end())
        if status:
            errors.seek(0)
            message = errors.read().decode(errors="replace")[-2000:]
            raise SystemExit(
                f"{shlex.join(map(str, words))} ended with code {process.returncode}:\n{message}"
            )
    return cost


class _MemorySampler:
    """Samples the anonymous memory of a process until it ends, because the kernel keeps no peak."""

    def __init__(self, pid: int) -> None:
        self._status, self._most, self._ended = Path(f"/proc/{pid}/status"), 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE):
            try:
                lines = self._status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return  # the process has ended, or the system has no /proc
            held = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
            self._most = max([self._most, *held])

    def end(self) -> int:
        """Stop sampling, and return the largest sample in bytes."""
        self._ended.set()
        self._thread.join()
        return self._most


def sync(path: Path) -> None:
    """Flush a file, or all files of a folder, to the disk."""
    for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def target(value: float, most: float, unit: str = "") -> str:
    """Return the text of a target for a table, and whether it is met: ≤ 1.3: met."""
    return f"≤ {most:g}{unit}: {'met' if value <= most else 'missed'}"


def against(
    costs: Mapping[str, Sequence[Cost]], reference: str, judged: str, most: float
) -> list[list[str]]:
    """Return a row for each contender: its name, its seconds, its ratio, and the target.

    Args:
        costs: what `in_turn` returned.
        reference: the contender that ratios are taken to.
        judged: the contender whose ratio has a target.
        most: the target, at most.
    """
    rows = []
    for name, taken in costs.items():
        to = ratio(taken, costs[reference])
        verdict = target(to.median, most) if name == judged else ""
        rows.append([name, seconds(taken).text(), to.text(), verdict])
    return rows


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    for cells in (columns, ["-" * width for width in widths], *rows):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        print(f"| {' | '.join(padded)} |")
    print(flush=True)
