"""A new file, written from its start to its end past the page cache, and read back from the disk behind the writing.

Through the page cache the kernel copies every byte once more, into pages that it has to find first, and what is read
back comes out of memory, whatever the disk holds. Past it, the disk takes bytes while the next ones are computed, and
inputs stay in the cache. Where a file system has no way past it, the same is done through it.
"""

import errno
import fcntl
import hashlib
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash
from numpy.typing import NDArray

from merging.errors import ExportError

STRETCH = 2**23
"""Bytes that go to the disk at once, a multiple of what any disk asks for. Memory for three such is held."""


class Writer:
    """`with Writer(path, nbytes) as file:` at the end of the block all is on the disk, and was read back from there.

    Args:
        path: of the file; it must not exist.
        nbytes: how large it will be.

    Raises:
        OSError: at any call, when the disk refuses.
        ExportError: at any call, when what was read back is not what was written.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        self._path = path
        self._sha256, self._xxh3 = hashlib.sha256(), xxhash.xxh3_128()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _reserve(self._descriptor, nbytes)
            self._past_cache = _past_cache(self._descriptor, True)
        except OSError:
            os.close(self._descriptor)
            raise
        # One is filled while the one before is written; the third takes what is read back.
        self._filling, self._writing, self._back = (
            _aligned(min(STRETCH, nbytes)) for _ in range(3)
        )
        self._begin = self._filled = 0
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read back")
        self._written: Future[None] | None = None
        self._compared: list[Future[None]] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._disk.shutdown(cancel_futures=True)
            self._reader.shutdown(cancel_futures=True)
            os.close(self._descriptor)

    @property
    def nbytes(self) -> int:
        """What was given to be written."""
        return self._begin + self._filled

    @property
    def sha256(self) -> str:
        """Of what was given to be written."""
        return self._sha256.hexdigest()

    def write(self, piece: memoryview) -> None:
        """Take the next bytes; they may change when it returns."""
        self._sha256.update(piece)
        while piece:
            size = min(len(piece), STRETCH - self._filled)
            self._xxh3.update(piece[:size])
            np.copyto(
                self._filling[self._filled : self._filled + size],
                np.frombuffer(piece[:size], np.uint8),
            )
            self._filled += size
            piece = piece[size:]
            if self._filled == STRETCH:
                self._hand_over()

    def _hand_over(self) -> None:
        """Give the buffer that is filled to the disk, and begin the other one, when that is written."""
        self._wait()
        self._written = self._disk.submit(
            self._put, self._filling, self._begin, self._xxh3.digest()
        )
        self._filling, self._writing = self._writing, self._filling
        self._xxh3.reset()
        self._begin, self._filled = self._begin + self._filled, 0

    def _wait(self) -> None:
        """Until nothing is being written; raises what went wrong until now."""
        if self._written is not None:
            self._written.result()
        while self._compared and self._compared[0].done():
            self._compared.pop(0).result()

    def _finish(self) -> None:
        rest = self._filling[: self._filled]
        self._wait()
        if self._past_cache:  # that takes whole sectors only
            _past_cache(self._descriptor, False)
        self._put(rest, self._begin, self._xxh3.digest())
        for compared in self._compared:
            compared.result()
        os.fsync(self._descriptor)

    def _put(self, values: NDArray[np.uint8], begin: int, digest: bytes) -> None:
        """Write a stretch, then have it read back."""
        done = 0
        while done < len(values):
            try:
                done += os.pwrite(self._descriptor, values.data[done:], begin + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._past_cache:
                    raise
                self._past_cache = _past_cache(self._descriptor, False)
        self._compared.append(self._reader.submit(self._compare, begin, len(values), digest))

    def _compare(self, begin: int, size: int, digest: bytes) -> None:
        done = 0
        while done < size:
            count = os.preadv(self._descriptor, [self._back.data[done:size]], begin + done)
            if count == 0:
                break
            done += count
        if xxhash.xxh3_128_digest(self._back.data[:done]) != digest:
            raise ExportError(
                f"{self._path.name}: what the disk holds from byte {begin:,} on is not what was written there. "
                "Export again; if it happens twice, to another disk."
            )


def _reserve(descriptor: int, nbytes: int) -> None:
    """Give a new file its room on the disk: 1 GB was flushed at 1.1 to 1.4 GB/s with it and at 0.3 to 1.0 without (ext4).

    Raises:
        OSError: when there is no room. Systems and file systems that cannot reserve are left to find it block by block.
    """
    allocate = getattr(os, "posix_fallocate", None)  # macOS has none
    if allocate is None:
        return
    try:
        allocate(descriptor, 0, nbytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Memory that begins at a page, as a disk asks of what goes there directly."""
    return np.frombuffer(mmap.mmap(-1, max(nbytes, 1)), np.uint8)


def _past_cache(descriptor: int, wanted: bool) -> bool:
    """Ask that reads and writes go past the page cache, or through it; whether they go past it now."""
    direct = getattr(os, "O_DIRECT", 0)  # macOS has none
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | direct if wanted else flags & ~direct)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return wanted and direct != 0
