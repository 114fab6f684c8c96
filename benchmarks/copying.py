"""A plain copy, the physical limit of a merge: the same bytes without arithmetic.

Bytes are read in blocks into reused buffers, and then written to a file or copied in memory.
"""

import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

BLOCK = 2**19
"""Bytes read at once: 256k elements of two bytes. Two such buffers fit in a core's cache."""


def workers() -> tuple[int, ...]:
    """Return the numbers of threads with which the limit is measured: 1, and one per core."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return (1,) if cores == 1 else (1, cores)


def copy(
    inputs: Sequence[Path], out: Path | None, threads: int, *, past_cache: bool = False
) -> None:
    """Read every byte of the inputs once, all inputs side by side, as a merge has to.

    Args:
        inputs: the files to read.
        out: a new file, which gets the bytes of the first input and is flushed to the disk. If
            None, every block that is read is copied into a second buffer instead.
        threads: how many; each takes one stretch of every file.
        past_cache: write whole blocks straight to the disk, with O_DIRECT.

    Raises:
        FileExistsError: `out` exists.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb", buffering=0)).fileno() for path in inputs]
        targets = [] if out is None else [stack.enter_context(out.open("xb", buffering=0)).fileno()]
        longest = max(os.fstat(file).st_size for file in files)
        if past_cache and out is not None:
            os.posix_fallocate(targets[0], 0, os.fstat(files[0]).st_size)
            # A second descriptor of the same file: O_DIRECT takes whole blocks only, so the last,
            # shorter piece goes through the first one.
            targets.append(os.open(out, os.O_WRONLY | os.O_DIRECT))
            stack.callback(os.close, targets[1])
        stretch = -(-longest // threads // BLOCK) * BLOCK
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        starts = range(0, longest, stretch)
        for done in [
            pool.submit(_stretch, files, targets, start, start + stretch) for start in starts
        ]:
            done.result()
        for target in targets[:1]:
            os.fsync(target)


def _stretch(files: Sequence[int], targets: Sequence[int], start: int, stop: int) -> None:
    # From mmap, because O_DIRECT requires buffers that begin at a page.
    buffer, second = (np.frombuffer(mmap.mmap(-1, BLOCK), np.uint8) for _ in range(2))
    for offset in range(start, stop, BLOCK):
        # The first file is read last, so that the buffer holds its bytes when it is written.
        for file in reversed(files):
            count = os.preadv(file, [buffer], offset)
            if not targets:
                np.copyto(second[:count], buffer[:count])
        if targets:
            os.pwrite(targets[-1] if count == BLOCK else targets[0], buffer[:count], offset)
