"""Compares free disk space and memory with what a merge needs; reads headers only."""

from collections.abc import Sequence
from pathlib import Path

import torch

from merging.dtypes import working_dtype
from merging.engine.loop import BLOCK
from merging.engine.task import Task
from merging.errors import ExportError
from merging.inputs.checkpoint import Checkpoint
from merging.outputs.staging import check_room
from merging.outputs.weight_plan import nbytes_of
from merging.preflight.problem import Problem


def disk(todo: Sequence[Task], out: Path) -> list[Problem]:
    """Returns an error if the export's folder cannot be made or its disk is too full.

    Args:
        todo: the tensors to write; see merging.engine.tasks.tasks.
        out: the folder to make.
    """
    try:
        check_room(out, sum(nbytes_of(task) for task in todo))
    except ExportError as error:
        return [Problem("error", "disk", str(error))]
    return []


def memory(todo: Sequence[Task], base: Checkpoint, free: int | None = None) -> list[Problem]:
    """Returns an error if the largest piece that is computed at once does not fit in memory.

    Args:
        todo: the tensors to compute.
        base: Θ.
        free: free memory in bytes; that of this machine if not given.
    """
    free = free_memory() if free is None else free
    task = max(todo, key=lambda tensor: memory_need(tensor, base), default=None)
    if task is None or free is None or (need := memory_need(task, base)) <= free:
        return []
    return [
        Problem(
            "error",
            "memory",
            f"{task.method.name} needs the whole of {task.name} and of {len(task.vectors)} deltas "
            f"of it at once, {need / 1e9:.2f} GB; {free / 1e9:.2f} GB of memory are free.",
            "Close other programs, or choose a method that works in blocks, for example "
            "task_arithmetic.",
        )
    ]


def memory_need(task: Task, base: Checkpoint) -> int:
    """Returns the bytes that one tensor needs at once.

    These are n deltas, the base and the result in the working dtype, so (n + 2) copies. They are
    copies of the whole tensor if the method needs it at once, else of a block.
    """
    size = task.numel if task.whole else min(task.numel, BLOCK)
    dtype: torch.dtype = working_dtype(base.info(task.name).dtype)
    return (len(task.vectors) + 2) * dtype.itemsize * size


def free_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this process can still allocate; None if unknown.

    This is the system's free memory, or that of the process's control group if it has a smaller
    limit.

    Args:
        root: the folder that contains proc and sys.
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
    # MemAvailable and not MemFree, which leaves out the page cache that the system gives up.
    free = system.get("MemAvailable", 0) + system.get("SwapFree", 0)
    group = root / "sys/fs/cgroup"
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        group_stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # no limit for this process alone
        return free
    # The page cache counts as used, but its inactive part is given up on demand.
    return (
        free
        if limit == "max"
        else min(free, max(0, int(limit) - used + int(group_stat.get("inactive_file", 0))))
    )
