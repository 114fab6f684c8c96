"""Digests of weights: a tree of XXH3 hashes that covers every byte of every tensor.

The tree has three floors:

    leaf    XXH3-64 of LEAF bytes of a tensor as stored, counted from its first byte; the last leaf
            of a tensor may be shorter
    tensor  XXH3-128 of its name, dtype and shape and of its leaves, in order
    digest  XXH3-128 of all tensors in the order of their names

So the same weights have the same digest, whatever their shards, file names, metadata and the order
of their headers are; and leaves can be hashed in any order, by whoever reads the bytes anyway.
XXH3 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md) is as fast as memory and is
not cryptographic: a digest tells weights apart, and does not prove where they come from. Whoever
wants to forge one can. (`dem verify` compares SHA-256.)
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from merging.inputs.header import NAMES, TensorInfo

LEAF = 2**17
"""Bytes of a leaf.

The compiled loop reads slices of 2^16 elements, which are whole leaves of 2 or 4 bytes per element.
"""
DIGITS = 32
"""Hexadecimal digits of a digest. Digests of earlier versions, see sampled_digest, have 64."""
SPAN = 8
"""Leaves that a thread reads at once if nobody else has: 1 MB stays in the second-level cache."""

Leaves = NDArray[np.uint64]
"""Hashes of consecutive leaves, (leaves,); 0 for those that are not known.

A leaf whose hash is 0 in truth is only hashed more often.
"""


class DigestTree:
    """The leaves of the tensors of one checkpoint, gathered while its files are read.

    Any number of threads may add leaves: the same leaf always has the same hash, and writing one is
    a single store.

    Args:
        infos: name -> dtype and shape of each tensor.

    Attributes:
        gathering: whether `add` and `room` take part; readers need not ask.
        began: when gathering began, in ns since 1970: no byte was read before.
    """

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self._infos = dict(infos)
        self._leaves: dict[str, Leaves] = {}
        self.gathering, self.began = False, 0

    def begin(self) -> None:
        """Hashes what is read from now on; the first call counts."""
        if not self.gathering:
            self.gathering, self.began = True, time.time_ns()

    def add(self, name: str, start: int, data: memoryview) -> None:
        """Hashes the leaves that lie wholly in a part of a tensor that was read.

        Args:
            name: the tensor.
            start: the part's first byte in the tensor.
            data: its bytes.
        """
        stop = start + len(data)
        first = -(-start // LEAF)
        leaves = self._of(name)
        # The last leaf of a tensor ends where the tensor does, all others at a multiple of LEAF.
        last = len(leaves) if stop == self._infos[name].nbytes else stop // LEAF
        for leaf in range(first, last):
            if not leaves[leaf]:
                at = leaf * LEAF - start
                leaves[leaf] = xxhash.xxh3_64_intdigest(data[at : at + LEAF])

    def room(self, name: str, start: int, stop: int) -> Leaves | None:
        """Returns where the hashes of a part of a tensor go, for a reader that hashes by itself.

        None if the part is not made of whole leaves, or if they are known.

        Args:
            name: the tensor.
            start: the part's first byte in the tensor.
            stop: one past its last byte.
        """
        if start % LEAF or (stop % LEAF and stop != self._infos[name].nbytes):
            return None
        part = self._of(name)[start // LEAF : -(-stop // LEAF)]
        # The ends tell, as parts are read whole; to hash a leaf twice does no harm.
        return None if not len(part) or (part[0] and part[-1]) else part

    def missing(self) -> Iterator[tuple[str, int, int]]:
        """Yields name, first byte and one past the last of what must still be read.

        Each is at most SPAN leaves long.
        """
        for name, info in self._infos.items():
            leaves = self._of(name)
            if leaves.all():
                continue
            unknown = np.flatnonzero(leaves == 0)
            # Runs of unknown leaves, cut into spans.
            runs = np.split(unknown, np.flatnonzero(np.diff(unknown) != 1) + 1)
            for run in runs:
                for at in range(0, len(run), SPAN):
                    part = run[at : at + SPAN]
                    yield name, int(part[0]) * LEAF, min((int(part[-1]) + 1) * LEAF, info.nbytes)

    def complete(self, read: Callable[[str, int, memoryview], None]) -> None:
        """Reads and hashes everything that is missing, in several threads.

        Args:
            read: fills memory with a tensor's bytes, from the given byte on.
        """
        self.begin()

        def hashed(spans: Iterator[tuple[str, int, int]]) -> None:
            buffer = memoryview(bytearray(SPAN * LEAF))
            for name, start, stop in spans:
                part = buffer[: stop - start]
                read(name, start, part)
                self.add(name, start, part)

        spans = list(self.missing())
        count = min(torch.get_num_threads(), 8, len(spans))
        if count < 2:
            hashed(iter(spans))
            return
        with ThreadPoolExecutor(count, thread_name_prefix="digest") as pool:
            # Each thread takes every count-th span, so together they read from start to end.
            for future in [pool.submit(hashed, iter(spans[i::count])) for i in range(count)]:
                future.result()

    def digest(self) -> str:
        """Returns the digest; all leaves must be known. See the module."""
        tree = xxhash.xxh3_128()
        for name in sorted(self._infos):
            info = self._infos[name]
            facts = [name, NAMES[info.dtype], list(info.shape)]
            tensor = xxhash.xxh3_128(json.dumps(facts).encode())
            tensor.update(self._of(name).astype("<u8").tobytes())
            tree.update(tensor.digest())
        return tree.hexdigest()

    def _of(self, name: str) -> Leaves:
        leaves = self._leaves.get(name)
        if leaves is None:
            # setdefault, because two threads may read the first parts of a tensor.
            leaves = self._leaves.setdefault(
                name, np.zeros(math.ceil(self._infos[name].nbytes / LEAF), np.uint64)
            )
        return leaves


class Digested:
    """What was opened from files, and has their digests and their identity.

    A subclass sets `_opened` to the checkpoint, or to something else with digests, from which it
    was opened. If it leaves it at None, as for weights in memory, the digests are empty.
    """

    _opened: Any = None

    @cached_property
    def digest(self) -> str:
        """The digest of its files; the first use may read them. See Checkpoint.digest."""
        return getattr(self._opened, "digest", "")

    @cached_property
    def sampled_digest(self) -> str:
        """The digest that earlier versions gave it; see Checkpoint.sampled_digest."""
        return getattr(self._opened, "sampled_digest", "")

    @cached_property
    def identity(self) -> str:
        """The key of caches of anything computed from it; see Checkpoint.identity."""
        return getattr(self._opened, "identity", "")

    def gather_digest(self) -> None:
        """Hashes what is read of its files from now on; see Checkpoint.gather_digest."""
        if hasattr(self._opened, "gather_digest"):
            self._opened.gather_digest()


def combined(*parts: str) -> str:
    """Returns a digest of digests and other texts, in their order."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())
