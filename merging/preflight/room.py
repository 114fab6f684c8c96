"""Free disk and memory against what a merge needs, from headers only."""

from collections.abc import Sequence
from pathlib import Path

import torch

from merging.dtypes import working_dtype
from merging.engine.loop import BLOCK
from merging.engine.tasks import Task
from merging.errors import ExportError
from merging.inputs.checkpoint import Checkpoint
from merging.outputs.export import nbytes_of
from merging.outputs.staging import room
from merging.preflight.problem import Problem


def disk(todo: Sequence[Task], out: Path) -> list[Problem]:
    """Whether a folder can be made, and there is room for the export in it.

    Args:
        todo: what to write; see merging.engine.tasks.tasks.
        out: the folder to make.
    """
    try:
        room(out, sum(nbytes_of(task) for task in todo))
    except ExportError as error:
        return [Problem("error", "disk", str(error))]
    return []


def memory(todo: Sequence[Task], base: Checkpoint, free: int | None = None) -> list[Problem]:
    """Whether the largest piece that is computed at once fits in memory.

    Args:
        todo: what to compute.
        base: Θ.
        free: bytes; of this machine if not given.
    """
    free = free_memory() if free is None else free
    task = max(todo, key=lambda one: memory_need(one, base), default=None)
    if task is None or free is None or (need := memory_need(task, base)) <= free:
        return []
    return [
        Problem(
            "error",
            "memory",
            f"{task.method.name} needs the whole of {task.name} and of {len(task.vectors)} deltas of it at once, "
            f"{need / 1e9:.2f} GB; {free / 1e9:.2f} GB of memory are free.",
            "Close other programs, or choose a method that works in blocks, for example task_arithmetic.",
        )
    ]


def memory_need(task: Task, base: Checkpoint) -> int:
    """Bytes that one tensor takes at once: (n + 2) copies in the working dtype, of a block or of the whole.

    n deltas, the base and the result; a block where the method is of scope 'element', or nothing is combined.
    """
    whole = bool(task.vectors) and task.method.scope != "element"
    size = task.numel if whole else min(task.numel, BLOCK)
    dtype: torch.dtype = working_dtype(base.info(task.name).dtype)
    return (len(task.vectors) + 2) * dtype.itemsize * size


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: the system's, or its control group's where that has a limit; None if unknown.

    Args:
        root: where proc and sys are.
    """
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:  # no /proc on this system
        return None
    system = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in text.splitlines()
        if line.endswith("kB")
    }
    free = system.get("MemAvailable", 0) + system.get("SwapFree", 0)
    group = root / "sys/fs/cgroup"
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # no limit for this process alone
        return free
    return (
        free
        if limit == "max"
        else min(free, max(0, int(limit) - used + int(held.get("inactive_file", 0))))
    )
