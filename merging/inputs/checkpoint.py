"""Checkpoint: a folder of safetensors files as a lazy, read-only mapping from tensor name to tensor.

Opening reads headers only. Weights are read with explicit reads, never mapped: a file cut short while it is mapped
kills the whole process with SIGBUS, a short read is an ordinary error.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.errors import CheckpointError
from merging.inputs.header import TensorInfo, read_header, read_index, read_json
from merging.paths import ADAPTER, DELTAS, INDEX, SINGLE, exists, is_adapter
from merging.tensor_names import natural_key
from plumbing.suggest import listed, nearest

SAMPLES, SAMPLE_BYTES = 64, 4096


Weights = Mapping[str, Tensor]
"""What a merge reads. Where the tensors live (files, RAM, an accelerator) is decided by which mapping is passed."""


class Stored(NamedTuple):
    """Elements of a tensor in a file that is open for reading, for who reads them by itself."""

    path: Path
    file: int
    """The descriptor."""
    offset: int
    """Bytes before the first element."""
    size: int
    """Elements."""
    dtype: torch.dtype

    def failed(self, code: int) -> CheckpointError:
        """What to raise when a read ended with this errno, or with 0 at the end of the file."""
        return _failed(self.path, code)


class Checkpoint(Mapping[str, Tensor]):
    """The weights of one model folder, single-file or sharded.

    Args:
        path: the folder.
        file: read this one file of the folder, whatever else it holds.

    Raises:
        CheckpointError: when the folder is missing, holds no safetensors weights, or its files are not sound.
    """

    def __init__(self, path: str | Path, *, file: str | None = None) -> None:
        self.path = Path(path)
        names, weight_map = _shards(self.path) if file is None else ([file], None)
        self.shards = tuple(self.path / name for name in names)
        self._infos: dict[str, tuple[int, TensorInfo]] = {}
        self._identities = []
        self.metadata: dict[str, str] = {}
        self._headers = hashlib.sha256()
        for number, shard in enumerate(self.shards):
            header = read_header(shard)
            self._add_shard(number, header.tensors)
            self.metadata |= header.metadata
            status = shard.stat()
            self._identities.append(_identity(status))
            self._headers.update(header.raw + status.st_size.to_bytes(8, "little"))
        if weight_map is not None:
            self._compare_with_index(weight_map)
        self._infos = {name: self._infos[name] for name in sorted(self._infos, key=natural_key)}
        self.config: dict[str, Any] = _config(self.path)

    def _add_shard(self, number: int, tensors: Mapping[str, TensorInfo]) -> None:
        for name, info in tensors.items():
            if name in self._infos:
                other = self.shards[self._infos[name][0]].name
                raise CheckpointError(
                    f"{self.path}: tensor {name!r} is in {other} and in {self.shards[number].name}; "
                    "two versions of a model are mixed in this folder. Export it again into an empty folder."
                )
            self._infos[name] = (number, info)

    def _compare_with_index(self, weight_map: Mapping[str, str]) -> None:
        index = self.path / INDEX
        for name, shard in weight_map.items():
            found = self._infos.get(name)
            if found is None or self.shards[found[0]].name != shard:
                where = "in none" if found is None else f"in {self.shards[found[0]].name}"
                raise CheckpointError(
                    f"{index} says that {name!r} is in {shard}; it is {where}. Copy the folder again."
                )
        if extra := sorted(set(self._infos) - set(weight_map)):
            raise CheckpointError(
                f"{index} does not list {listed(extra)}, which the shards hold. Copy the folder again."
            )

    def __getitem__(self, name: str) -> Tensor:
        return self.block(name, 0, self.info(name).numel).view(self.info(name).shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos  # the mapping's own would read the tensor to find out

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}: {len(self)} tensors, {self.nbytes / 1e9:.2f} GB)"

    @property
    def nbytes(self) -> int:
        """Bytes of weights."""
        return sum(info.nbytes for _, info in self._infos.values())

    @property
    def numel(self) -> int:
        """Number of stored elements, over all tensors."""
        return sum(info.numel for _, info in self._infos.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the headers and sizes of all shards and SAMPLES small pieces of each: cheap at any size.

        Headers and sizes alone would be the same for every fine-tune of one base.
        """
        found = self._headers.copy()
        for number, (size, *_) in enumerate(self._identities):
            for sample in range(SAMPLES):
                piece = bytearray(min(SAMPLE_BYTES, size))
                self._read(number, (size - len(piece)) * sample // (SAMPLES - 1), memoryview(piece))
                found.update(piece)
        return found.hexdigest()

    @cached_property
    def identity(self) -> str:
        """SHA-256 of place, size and time of change of every file: the key of a cache of what was computed from it."""
        facts = [
            (str(shard.resolve()), *identity)
            for shard, identity in zip(self.shards, self._identities, strict=True)
        ]
        return hashlib.sha256(repr((self.digest, facts)).encode()).hexdigest()

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and position of a tensor, without reading it.

        Raises:
            KeyError: naming the nearest tensor that there is.
        """
        try:
            return self._infos[name][1]
        except KeyError:
            raise KeyError(
                f"{self.path} has no tensor {name!r}; {nearest(name, list(self._infos))}"
            ) from None

    def position(self, name: str) -> tuple[int, int]:
        """Where a tensor stands in the files: the number of its shard, and its first byte there."""
        number, info = self._infos[name]
        return number, info.start

    def block(self, name: str, start: int, stop: int, scratch: Tensor | None = None) -> Tensor:
        """Elements `start` to `stop` of the flattened tensor, freshly read: shape (stop − start,).

        Args:
            name: of the tensor.
            start: the first element.
            stop: one past the last.
            scratch: bytes that the result may lie in, if they are enough, where it would otherwise take its own.

        Raises:
            CheckpointError: when the file has changed since it was opened, or cannot be read.
        """
        info = self.info(name)
        number = self._infos[name][0]
        nbytes = (stop - start) * info.dtype.itemsize
        if scratch is None or scratch.numel() < nbytes:
            scratch = torch.empty(nbytes, dtype=torch.uint8)
        buffer = scratch[:nbytes]
        self._read(number, info.start + start * info.dtype.itemsize, buffer.numpy().data)
        return buffer.view(info.dtype)

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """Where elements `start` to `stop` of the flattened tensor are; None where they are not as they are stored.

        Args:
            name: of the tensor.
            start: the first element.
            stop: one past the last.
            files: keeps the file open until it is closed.

        Raises:
            CheckpointError: when the file has changed since it was opened, or cannot be opened.
        """
        info = self.info(name)
        number = self._infos[name][0]
        file = self._open(number)
        files.callback(os.close, file)
        return Stored(
            self.shards[number],
            file,
            info.start + start * info.dtype.itemsize,
            stop - start,
            info.dtype,
        )

    def _open(self, number: int) -> int:
        """The descriptor of a shard."""
        shard = self.shards[number]
        try:
            # Not blocking: a FIFO that has taken the file's place would hang here.
            descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(
                f"{shard} cannot be read: {error.strerror}. Open the folder again."
            ) from None
        try:
            found = _identity(os.fstat(descriptor))
        except OSError as error:
            os.close(descriptor)
            raise _failed(shard, error.errno) from None
        if found != self._identities[number]:
            os.close(descriptor)
            raise CheckpointError(
                f"{shard} has changed on disk since it was opened. Open the folder again."
            )
        return descriptor

    def _read(self, number: int, offset: int, target: memoryview) -> None:
        descriptor = self._open(number)
        try:
            while target:
                count = os.preadv(descriptor, [target], offset)
                if count == 0:
                    raise _failed(self.shards[number], 0)
                target, offset = target[count:], offset + count
        except OSError as error:
            raise _failed(self.shards[number], error.errno) from None
        finally:
            os.close(descriptor)


def _failed(shard: Path, code: int | None) -> CheckpointError:
    """What to raise when a read ended with this errno, or with 0 at the end of the file."""
    if code == 0:
        return CheckpointError(
            f"{shard} was cut short while it was read. Copy it again and reopen it."
        )
    return CheckpointError(f"{shard}: reading failed: {os.strerror(code or 0)}.")


def read_block(
    weights: Weights, name: str, start: int, stop: int, scratch: Tensor | None = None
) -> Tensor:
    """Elements `start` to `stop` of a flattened tensor of any mapping, with no more of it in memory than that.

    They may lie in `scratch`, see Checkpoint.block, or be the mapping's own.
    """
    block = getattr(weights, "block", None)
    if block is not None:
        found: Tensor = (
            block(name, start, stop) if scratch is None else block(name, start, stop, scratch)
        )
        return found
    return weights[name].reshape(-1)[start:stop]


def in_file(weights: Weights, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
    """See Checkpoint.in_file; None for weights that are in no file."""
    where = getattr(weights, "in_file", None)
    found: Stored | None = None if where is None else where(name, start, stop, files)
    return found


def read_into(weights: Weights, name: str, start: int, out: Tensor, scratch: Tensor) -> None:
    """As many elements of a flattened tensor as `out` has, from `start` on, converted to its dtype.

    Args:
        weights: any mapping.
        name: of the tensor.
        start: the first element.
        out: 1-D; what is read ends up here.
        scratch: bytes to read into; as many elements are read at once as they hold.
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
    """The shape of a tensor, from the header where there is one."""
    return (
        weights.info(name).shape if isinstance(weights, Checkpoint) else tuple(weights[name].shape)
    )


def dtype_of(weights: Weights, name: str) -> torch.dtype:
    """The dtype of a tensor, from the header where there is one."""
    return weights.info(name).dtype if isinstance(weights, Checkpoint) else weights[name].dtype


def in_memory(weights: Weights) -> dict[str, Tensor]:
    """The same weights, read once and held in RAM, each in its own dtype."""
    return {name: weights[name] for name in weights}


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.exists():
        return {}
    # Mamba's configuration holds "time_step_limit": [0.0, Infinity], so numbers are not required to be finite here.
    document = read_json(file, finite=False)
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} holds a JSON {type(document).__name__}, expected an object.")
    return document


def _shards(path: Path) -> tuple[list[str], dict[str, str] | None]:
    """The names of the weight files in a folder, and the weight map of its index if it has one."""
    if not exists(path):
        raise CheckpointError(
            f"{path} does not exist. Give the folder of a saved model (config.json, *.safetensors)."
        )
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file. Give the folder that holds it.")
    if (path / INDEX).exists():
        weight_map = read_index(path / INDEX)
        names = sorted(set(weight_map.values()), key=natural_key)
        for name in names:
            if not (path / name).exists():
                raise CheckpointError(
                    f"{path / INDEX} names {name}, which is not there. Download the folder again."
                )
        if (path / SINGLE).exists() and SINGLE not in names:
            raise CheckpointError(
                f"{path} holds {SINGLE} and shards with an index: two models in one folder, and tools disagree which "
                "of them is loaded. Remove the one that is stale."
            )
        return names, weight_map
    found = sorted((file.name for file in path.glob("*.safetensors")), key=natural_key)
    if SINGLE in found:
        return [SINGLE], None
    if len(found) == 1 and not is_adapter(path) and found != [DELTAS]:
        return found, None
    raise CheckpointError(_what_is_there(path, found))


def _what_is_there(path: Path, found: list[str]) -> str:
    if (path / ADAPTER).exists():
        return f"{path} is a PEFT adapter, expected a full checkpoint. Add it as a vector to the base it was trained on."
    if found == [DELTAS]:
        return f"{path} is a saved distribution vector, expected weights. Add it as a vector to the base it was made on."
    if found:
        return (
            f"{path} holds {listed(found)} but no {INDEX} that says which shards belong together."
        )
    pickles = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern)
    )
    if pickles:
        return (
            f"{path} holds pickle weights ({listed(pickles)}) and no safetensors. Pickles can run code when they are "
            "opened, so they are not. Where you trust the source, convert them once: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)."
        )
    other = sorted(
        file.name for pattern in ("*.gguf", "*.onnx", "*.h5") for file in path.glob(pattern)
    )
    if other:
        return f"{path} holds {listed(other)}; only safetensors weights in full precision can be merged."
    names = sorted(file.name for file in path.iterdir())
    return f"{path} holds no safetensors weights ({listed(names) if names else 'it is empty'})."
