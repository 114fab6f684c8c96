"""Writes a new file past the page cache, and reads it back from the disk while it is written.

Through the page cache, the kernel copies every byte once more, into pages that it must find first;
and what is read back comes from memory, whatever the disk holds. Past the cache, the disk takes
bytes while the next ones are computed, and inputs stay in the cache. If a file system does not
support that, the file is written through the cache.
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
"""Bytes written at once: a multiple of any disk's block size. Memory for three of them is held."""


class Writer:
    """A new file for `with Writer(path, nbytes) as file:`.

    At the end of the block all bytes are on the disk, and were read back from there and compared.

    Args:
        path: the file; it must not exist.
        nbytes: its final size.

    Raises:
        OSError: at any call, if the disk refuses.
        ExportError: at any call, if bytes that were read back differ from those written.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        self._path = path
        # SHA-256 is for the manifest; XXH3, which is much faster, compares what is read back.
        self._sha256, self._xxh3 = hashlib.sha256(), xxhash.xxh3_128()
        # Mode 0666, so that the umask decides who can read it, as for any other file.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _reserve(self._descriptor, nbytes)
            self._direct = _set_direct(self._descriptor, True)
        except OSError:
            os.close(self._descriptor)
            raise
        # One buffer is filled while another is written; the third takes what is read back.
        self._filling, self._writing, self._back = (
            _page_aligned(min(STRETCH, nbytes)) for _ in range(3)
        )
        self._begin = self._filled = 0
        # One thread writes a stretch while another reads back the stretch before.
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
            # Both wait for their threads before the descriptor is closed: its number may be given
            # to another file, into which a late write would then go.
            self._disk.shutdown(cancel_futures=True)
            self._reader.shutdown(cancel_futures=True)
            os.close(self._descriptor)

    @property
    def nbytes(self) -> int:
        """The number of bytes passed to `write` so far."""
        return self._begin + self._filled

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes passed to `write` so far, as hexadecimal digits."""
        return self._sha256.hexdigest()

    def write(self, piece: memoryview) -> None:
        """Writes the next bytes; their memory may be reused as soon as it returns."""
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
        """Starts writing the full buffer and switches to the other one once that is written."""
        self._wait()
        self._written = self._disk.submit(
            self._put, self._filling, self._begin, self._xxh3.digest()
        )
        self._filling, self._writing = self._writing, self._filling
        self._xxh3.reset()
        self._begin, self._filled = self._begin + self._filled, 0

    def _wait(self) -> None:
        """Waits until nothing is being written; raises errors that happened so far."""
        if self._written is not None:
            self._written.result()
        # Only comparisons that are done: waiting for the others would stop the writing.
        while self._compared and self._compared[0].done():
            self._compared.pop(0).result()

    def _finish(self) -> None:
        """Writes the rest, waits for all comparisons and flushes the file."""
        rest = self._filling[: self._filled]
        self._wait()
        if self._direct:  # direct writes take only whole sectors, and the rest may end within one
            _set_direct(self._descriptor, False)
        self._put(rest, self._begin, self._xxh3.digest())
        for compared in self._compared:
            compared.result()
        os.fsync(self._descriptor)

    def _put(self, values: NDArray[np.uint8], begin: int, digest: bytes) -> None:
        """Writes a stretch from byte `begin` on, then starts reading it back."""
        done = 0
        while done < len(values):
            try:
                done += os.pwrite(self._descriptor, values.data[done:], begin + done)
            except OSError as error:
                # Some file systems accept the flag and refuse the write: go through the cache.
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._direct = _set_direct(self._descriptor, False)
        self._compared.append(self._reader.submit(self._compare, begin, len(values), digest))

    def _compare(self, begin: int, size: int, digest: bytes) -> None:
        """Reads a stretch back; raises an ExportError if its XXH3 digest differs."""
        done = 0
        while done < size:
            count = os.preadv(self._descriptor, [self._back.data[done:size]], begin + done)
            # A file that ends too early has another digest, so it needs no message of its own.
            if count == 0:
                break
            done += count
        if xxhash.xxh3_128_digest(self._back.data[:done]) != digest:
            raise ExportError(
                f"{self._path.name}: from byte {begin:,} on, the disk does not hold what was "
                "written. Export again; if it happens twice, export to another disk."
            )


def _reserve(descriptor: int, nbytes: int) -> None:
    """Reserves disk space for a new file.

    On ext4, 1 GB was flushed at 1.1 to 1.4 GB/s with a reservation and at 0.3 to 1.0 GB/s without.
    Systems and file systems that cannot reserve allocate the space block by block instead.

    Raises:
        OSError: if there is no room.
    """
    allocate = getattr(os, "posix_fallocate", None)  # macOS has none
    if allocate is None:
        return
    try:
        allocate(descriptor, 0, nbytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _page_aligned(nbytes: int) -> NDArray[np.uint8]:
    """Allocates memory that begins at a page, as direct writes require."""
    return np.frombuffer(mmap.mmap(-1, max(nbytes, 1)), np.uint8)


def _set_direct(descriptor: int, wanted: bool) -> bool:
    """Switches a file to bypass the page cache, or back; returns whether it bypasses it now."""
    direct = getattr(os, "O_DIRECT", 0)  # macOS has none
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | direct if wanted else flags & ~direct)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return wanted and direct != 0
