"""A folder of safetensors files as a lazy, read-only mapping from tensor name to tensor.

Opening a checkpoint reads headers only. Weights are read with explicit reads and never mapped: a
file that is cut short while it is mapped kills the process with SIGBUS, but a short read is an
ordinary error.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.errors import CheckpointError
from merging.inputs import digest_cache
from merging.inputs.digest import DigestTree, Leaves
from merging.inputs.digest_cache import FileFacts
from merging.inputs.header import TensorInfo, read_header
from merging.inputs.sampled_digest import sampled_digest
from merging.inputs.weight_files import read_config, weight_files
from merging.paths import INDEX
from merging.tensor_names import natural_key
from plumbing.suggest import listed, nearest

Weights = Mapping[str, Tensor]
"""Tensor name -> weights. The mapping decides where they are: in files, RAM or an accelerator."""

Count = Callable[[int], object]
"""Called with the bytes of one read, in the thread that reads. It may raise to stop the reading."""

# Reads are several calls below the code that knows what they are for, so the counter belongs to the
# thread.
_COUNT: ContextVar[Count | None] = ContextVar("bytes_read", default=None)


@contextmanager
def counting_reads(count: Count) -> Iterator[None]:
    """Calls `count` with the bytes of every read that this thread makes inside the block."""
    before = _COUNT.set(count)
    try:
        yield
    finally:
        _COUNT.reset(before)


def tell_read(nbytes: int) -> None:
    """Tells this thread's counter, if it has one, that so many bytes of weights are read."""
    count = _COUNT.get()
    if count is not None:
        count(nbytes)


class Stored(NamedTuple):
    """A span of a tensor in an open file, for callers (kernel.c) that read the bytes themselves.

    Attributes:
        path: the file, for messages.
        file: its descriptor, open for reading.
        offset: bytes before the first element.
        size: number of elements.
        dtype: their dtype in the file.
        leaves: where the reader puts the XXH3-64 of each leaf of the span that is longer than 240
            bytes; None if nobody needs them. See merging.inputs.digest.
    """

    path: Path
    file: int
    offset: int
    size: int
    dtype: torch.dtype
    leaves: Leaves | None = None

    def read_error(self, code: int) -> CheckpointError:
        """Returns the error to raise after a failed read; see `_read_error`."""
        return _read_error(self.path, code)


class Checkpoint(Mapping[str, Tensor]):
    """The weights of one model folder, single-file or sharded.

    Args:
        path: the folder.
        file: read only this file of the folder; the model's weight files if not given.

    Attributes:
        shards: the paths of its weight files.
        metadata: the metadata of all files together.
        config: its config.json; {} if it has none.
        folders: the sub-folders with weights of modules; see merging.inputs.weight_files. Their
            tensors have the sub-folder in their name.
        files: path, size, times and inode of its weight files when it was opened.

    Raises:
        CheckpointError: if the folder is missing, holds no safetensors weights, or its files are
            not sound.
    """

    def __init__(self, path: str | Path, *, file: str | None = None) -> None:
        self.path = Path(path)
        names, weight_map = weight_files(self.path) if file is None else ([file], {})
        self.shards = tuple(self.path / name for name in names)
        self._infos: dict[str, tuple[int, TensorInfo]] = {}
        # As they were when the headers were read: each later read compares them, because offsets of
        # another file's header would give wrong weights without an error.
        self.files: tuple[FileFacts, ...] = ()
        self.metadata: dict[str, str] = {}
        for number, shard in enumerate(self.shards):
            header = read_header(shard)
            at = "".join(names[number].rpartition("/")[:2])
            tensors = {f"{at}{name}": info for name, info in header.tensors.items()}
            self._add_shard(number, tensors)
            self.metadata |= header.metadata
            self.files += (FileFacts.of(shard),)
        # A tool that trusts the index and one that reads the shards would load different models.
        self._compare_with_index(weight_map)
        self.folders = tuple(dict.fromkeys(at for name in names if (at := name.rpartition("/")[0])))
        # Layers in their order, whatever the shards' order: merges and exports follow it.
        self._infos = {name: self._infos[name] for name in sorted(self._infos, key=natural_key)}
        self.config: dict[str, Any] = read_config(self.path)
        self._tree = DigestTree({name: info for name, (_, info) in self._infos.items()})

    def _add_shard(self, number: int, tensors: Mapping[str, TensorInfo]) -> None:
        for name, info in tensors.items():
            if name in self._infos:
                other = self.shards[self._infos[name][0]].name
                raise CheckpointError(
                    f"{self.path}: tensor {name!r} is in {other} and in "
                    f"{self.shards[number].name}; two versions of a model are mixed in this "
                    "folder. Export it again into an empty folder."
                )
            self._infos[name] = (number, info)

    def _compare_with_index(self, weight_map: Mapping[str, str]) -> None:
        """Raises an error unless the tensors are where the indexes say, and no others there."""
        names = [shard.relative_to(self.path).as_posix() for shard in self.shards]
        where = {name: names[number] for name, (number, _) in self._infos.items()}
        for name, shard in weight_map.items():
            actual = where.get(name, "no shard")
            if actual != shard:
                raise CheckpointError(
                    f"{(self.path / shard).with_name(INDEX)} says that {name!r} is in {shard}; it "
                    f"is in {actual}. Copy the folder again."
                )
        indexed = set(weight_map.values())
        extra = sorted(name for name in where if where[name] in indexed and name not in weight_map)
        if extra:
            raise CheckpointError(
                f"{(self.path / where[extra[0]]).with_name(INDEX)} does not list {listed(extra)}, "
                "which the shards hold. Copy the folder again."
            )

    def __getitem__(self, name: str) -> Tensor:
        return self.block(name, 0, self.info(name).numel).view(self.info(name).shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos  # Mapping's own test would read the tensor

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}: {len(self)} tensors, {self.nbytes / 1e9:.2f} GB)"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(info.nbytes for _, info in self._infos.values())

    @property
    def numel(self) -> int:
        """Number of stored elements, over all tensors."""
        return sum(info.numel for _, info in self._infos.values())

    @cached_property
    def digest(self) -> str:
        """32 hex digits over every byte, name, dtype and shape of all tensors.

        The same weights have the same digest in any shards, with any metadata; see
        merging.inputs.digest. It is kept in a cache of the user (merging.inputs.digest_cache). If
        it is not there, the first use reads what has not been read since `gather_digest`.

        Raises:
            CheckpointError: if a file has changed since it was opened, or cannot be read.
        """
        if (known := digest_cache.find(self.files)) is not None:
            self._tree.gathering = False
            return known
        self._tree.complete(self._read_bytes)
        # Once more: a shard may have changed after it was read for the last time.
        for number in range(len(self.shards)):
            os.close(self._open(number))
        digest, self._tree.gathering = self._tree.digest(), False
        digest_cache.keep(self.files, digest, self._tree.began)
        return digest

    def gather_digest(self) -> None:
        """Hashes what is read from now on, so that `digest` need not read it again.

        For callers that are about to read most of the weights.
        """
        if "digest" not in vars(self) and digest_cache.find(self.files) is None:
            self._tree.begin()

    @cached_property
    def sampled_digest(self) -> str:
        """The digest of earlier versions: it covers headers and 64 small samples of each shard.

        Two checkpoints may share it. It is cheap at any size.
        """
        # Earlier versions knew the top folder only.
        top = [shard for shard in self.shards if shard.parent == self.path]
        return sampled_digest(top, self.files[: len(top)], self._read)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over the digest and the path, size, time of change and inode of every file.

        It is the key of caches: any change of a file changes it.
        """
        facts = [file[:4] for file in self.files]
        return hashlib.sha256(repr((self.digest, facts)).encode()).hexdigest()

    def info(self, name: str) -> TensorInfo:
        """Returns dtype, shape and position of a tensor without reading it.

        Raises:
            KeyError: if there is no such tensor; the message names the nearest one.
        """
        try:
            return self._infos[name][1]
        except KeyError:
            raise KeyError(
                f"{self.path} has no tensor {name!r}; {nearest(name, list(self._infos))}"
            ) from None

    def position(self, name: str) -> tuple[int, int]:
        """Returns the number of a tensor's shard, and the offset of its first byte in it."""
        number, info = self._infos[name]
        return number, info.start

    def block(self, name: str, start: int, stop: int, scratch: Tensor | None = None) -> Tensor:
        """Reads elements `start` to `stop` of a flattened tensor: shape (stop − start,).

        Args:
            name: the tensor.
            start: the first element.
            stop: one past the last element.
            scratch: a uint8 buffer for the result. New memory is used if it is not given or too
                small.

        Raises:
            CheckpointError: if the file has changed since it was opened, or cannot be read.
        """
        info = self.info(name)
        number = self._infos[name][0]
        # Bytes are read first and viewed as the dtype, because NumPy knows no bfloat16 or float8.
        nbytes = (stop - start) * info.dtype.itemsize
        if scratch is None or scratch.numel() < nbytes:
            scratch = torch.empty(nbytes, dtype=torch.uint8)
        buffer = scratch[:nbytes]
        data = buffer.numpy().data
        self._read(number, info.start + start * info.dtype.itemsize, data)
        tell_read(nbytes)
        tree, own_name = self._tree_of(name)
        if tree.gathering:
            tree.add(own_name, start * info.dtype.itemsize, data)
        return buffer.view(info.dtype)

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """Opens the file of a tensor and returns the span of elements `start` to `stop` in it.

        None (in subclasses) if these elements are in no file as they are.

        Args:
            name: the tensor.
            start: the first element.
            stop: one past the last element.
            files: closes the file when it is closed itself.

        Raises:
            CheckpointError: if the file has changed since it was opened, or cannot be opened.
        """
        info = self.info(name)
        number = self._infos[name][0]
        file = self._open(number)
        files.callback(os.close, file)
        first, last = start * info.dtype.itemsize, stop * info.dtype.itemsize
        tell_read(last - first)
        tree, own_name = self._tree_of(name)
        leaves = tree.room(own_name, first, last) if tree.gathering else None
        return Stored(
            self.shards[number], file, info.start + first, stop - start, info.dtype, leaves
        )

    def _tree_of(self, name: str) -> tuple[DigestTree, str]:
        """Returns the tree that has a tensor's leaves, and the tensor's name there."""
        return self._tree, name

    def _read_bytes(self, name: str, start: int, target: memoryview) -> None:
        """Fills `target` with bytes of a tensor, from its byte `start` on."""
        number, info = self._infos[name]
        self._read(number, info.start + start, target)

    def _open(self, number: int) -> int:
        """Opens a shard, checks that it is unchanged, and returns its descriptor."""
        shard = self.shards[number]
        try:
            # Not blocking: a FIFO that has replaced the file would hang here.
            descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(
                f"{shard} cannot be read: {error.strerror}. Open the folder again."
            ) from None
        try:
            now = _identity(os.fstat(descriptor))
        except OSError as error:
            os.close(descriptor)
            raise _read_error(shard, error.errno) from None
        if now != self.files[number][1:4]:
            os.close(descriptor)
            raise CheckpointError(
                f"{shard} has changed on disk since it was opened. Open the folder again."
            )
        return descriptor

    def _read(self, number: int, offset: int, target: memoryview) -> None:
        """Fills `target` from a shard, from byte `offset` on."""
        descriptor = self._open(number)
        try:
            while target:  # one read returns at most 2 GiB
                count = os.preadv(descriptor, [target], offset)
                # The identity was compared on opening, so the file has shrunk since.
                if count == 0:
                    raise _read_error(self.shards[number], 0)
                target, offset = target[count:], offset + count
        except OSError as error:
            raise _read_error(self.shards[number], error.errno) from None
        finally:
            os.close(descriptor)


def _read_error(shard: Path, code: int | None) -> CheckpointError:
    """Returns the error for a read that failed with this errno, or 0 at the end of the file."""
    if code == 0:
        return CheckpointError(
            f"{shard} was cut short while it was read. Copy it again and reopen it."
        )
    return CheckpointError(f"{shard}: reading failed: {os.strerror(code or 0)}.")


def read_block(
    weights: Weights, name: str, start: int, stop: int, scratch: Tensor | None = None
) -> Tensor:
    """Returns elements `start` to `stop` of a flattened tensor: shape (stop − start,).

    The result is read-only for the caller: it may be in `scratch` (see Checkpoint.block), or be a
    view of the mapping's own tensor. From a file, only these elements are read.
    """
    block = getattr(weights, "block", None)
    if block is None:
        # Weights in memory: a view, so that a block of a large tensor costs nothing.
        return weights[name].reshape(-1)[start:stop]
    # Vectors have a `block` too, without `scratch`.
    values: Tensor = (
        block(name, start, stop) if scratch is None else block(name, start, stop, scratch)
    )
    return values


def in_file(weights: Weights, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
    """Returns a span of a tensor in its open file; see Checkpoint.in_file.

    None if the weights are in no file.
    """
    method = getattr(weights, "in_file", None)
    stored: Stored | None = None if method is None else method(name, start, stop, files)
    return stored


def read_into(weights: Weights, name: str, start: int, out: Tensor, scratch: Tensor) -> None:
    """Fills `out` with elements of a flattened tensor, converted to the dtype of `out`.

    Args:
        weights: any mapping.
        name: the tensor.
        start: its first element to read.
        out: 1-D; its length is the number of elements to read.
        scratch: a uint8 buffer for elements in their stored dtype. Its size limits how many
            elements are read at once.
    """
    block = getattr(weights, "block", None)
    if block is None:
        out.copy_(weights[name].reshape(-1)[start : start + out.numel()])
        return
    step = scratch.numel() // 8  # no dtype takes more than 8 bytes
    for at in range(0, out.numel(), step):
        size = min(step, out.numel() - at)
        out[at : at + size].copy_(block(name, start + at, start + at + size, scratch))


def shape_of(weights: Weights, name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor; a checkpoint's tensor is not read for it."""
    return (
        weights.info(name).shape if isinstance(weights, Checkpoint) else tuple(weights[name].shape)
    )


def dtype_of(weights: Weights, name: str) -> torch.dtype:
    """Returns the dtype of a tensor; a checkpoint's tensor is not read for it."""
    return weights.info(name).dtype if isinstance(weights, Checkpoint) else weights[name].dtype


class InMemory(dict[str, Tensor]):
    """Weights in RAM; `config` is the config.json of their checkpoint, {} if it has none."""

    config: Mapping[str, Any] = {}


def in_memory(weights: Weights) -> InMemory:
    """Reads all weights into RAM, each in its stored dtype."""
    held = InMemory({name: weights[name] for name in weights})
    held.config = getattr(weights, "config", {})
    return held


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """Returns the facts that change when a file is written or replaced."""
    # The inode too: a file of the same size and time may have been renamed over this one.
    return status.st_size, status.st_mtime_ns, status.st_ino
