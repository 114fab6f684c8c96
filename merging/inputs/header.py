"""Headers of safetensors files and their index: a strict reader, for folders that nobody here made, and a writer.

The library's own reader is lenient where a server must not be: it accepts a key twice (the last wins), shapes such as
[0, 2**62], and a million empty tensors at a cost of 800 MB. transformers joins the file names of an index to the
folder without a check, so `../../other/model.safetensors` is read. Everything here is refused before a byte of
weights is touched. Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from merging.errors import CheckpointError

MAX_HEADER = 100_000_000  # the format's own limit
MAX_TENSORS = 200_000
MAX_NAME = 512
MAX_INDEX = 64_000_000

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

_TENSOR_NAME = re.compile(rf"[\x21-\x7e]{{1,{MAX_NAME}}}")
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")


class TensorInfo(NamedTuple):
    """What a header says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Header(NamedTuple):
    """The header of one file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    raw: bytes
    """The length and the JSON text as they stand in the file: what a checkpoint's digest is taken over."""


def read_header(path: Path) -> Header:
    """Read and check the header of one safetensors file.

    Raises:
        CheckpointError: naming the file, what is wrong with it, and what to do.
    """
    size = regular_file(path).st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if prefix.startswith(b"version "):
            raise CheckpointError(
                f"{path} is a git-LFS pointer, not the weights. Run `git lfs pull` in its repository."
            )
        if len(prefix) < 8:
            raise CheckpointError(
                f"{path} has {size} bytes, too few for a safetensors file. Copy it again."
            )
        length = struct.unpack("<Q", prefix)[0]
        # A header of 640 bytes begins as pickles do, with 80 02: only a length that cannot be is looked at.
        pickled = (
            prefix[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
            or prefix[:4] == b"PK\x03\x04"
        )
        if pickled and length > min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path} is a pickle (PyTorch) file under another name. Pickles can run code and are never opened; "
                "save the model again with save_pretrained, which writes safetensors."
            )
        if length > min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path}: the header claims {length:,} bytes and the file has {size:,}. "
                "It is not a safetensors file, or it was cut short; compare its size with the source and copy it again."
            )
        text = file.read(length)
    document = parse_json(text, f"{path}: header")
    if not isinstance(document, dict):
        raise CheckpointError(
            f"{path}: the header is a JSON {type(document).__name__}, expected an object."
        )
    metadata = document.pop("__metadata__", {})
    if not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise CheckpointError(f"{path}: __metadata__ must map strings to strings.")
    if len(document) > MAX_TENSORS:
        raise CheckpointError(
            f"{path}: {len(document):,} tensors in one file; at most {MAX_TENSORS:,} are read."
        )
    tensors = {
        name: _tensor_info(path, name, entry, 8 + length) for name, entry in document.items()
    }
    _contiguous(path, tensors, 8 + length, size)
    return Header(tensors, metadata, prefix + text)


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    where = f"{path}: tensor {name[:80]!r}"
    if not _TENSOR_NAME.fullmatch(name):
        raise CheckpointError(
            f"{where}: a name must be 1 to {MAX_NAME} printable ASCII characters without spaces."
        )
    if not (isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}):
        raise CheckpointError(
            f"{where}: expected dtype, shape and data_offsets, found {_keys(entry)}."
        )
    if not (isinstance(entry["dtype"], str) and entry["dtype"] in DTYPES):
        raise CheckpointError(
            f"{where}: dtype {str(entry['dtype'])[:80]!r} is not one of {', '.join(DTYPES)}."
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (
        _naturals(shape) and len(shape) <= 16 and math.prod(max(size, 1) for size in shape) < 2**48
    ):
        raise CheckpointError(f"{where}: shape {str(shape)[:80]} is not a list of plausible sizes.")
    if not (_naturals(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise CheckpointError(
            f"{where}: data_offsets {str(offsets)[:80]} are not a begin and an end."
        )
    dtype = DTYPES[entry["dtype"]]
    nbytes = offsets[1] - offsets[0]
    if nbytes != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{where}: {nbytes:,} bytes do not hold {entry['dtype']} of shape {shape}."
        )
    return TensorInfo(dtype, tuple(shape), data_start + offsets[0], nbytes)


def _contiguous(path: Path, tensors: dict[str, TensorInfo], start: int, size: int) -> None:
    """No holes, no overlaps, nothing behind the last tensor: what is hidden in a file cannot be checked."""
    position = start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if info.start != position:
            kind = "overlaps its neighbour" if info.start < position else "leaves a hole before it"
            raise CheckpointError(
                f"{path}: tensor {name!r} {kind}; the file was not written by a sound tool."
            )
        position += info.nbytes
    if position > size:
        raise CheckpointError(
            f"{path} is cut short: the header needs {position:,} bytes, the file has {size:,} "
            f"({position - size:,} missing). Copy or download it again."
        )
    if position < size:
        raise CheckpointError(
            f"{path}: {size - position:,} bytes follow the last tensor; they belong to nothing."
        )


def read_index(path: Path) -> dict[str, str]:
    """The weight map of an index file, tensor name -> shard file name, each name checked to stay in the folder.

    Raises:
        CheckpointError: for a name that leaves the folder, or a map that is none.
    """
    document = read_json(path, MAX_INDEX)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not (isinstance(weight_map, dict) and weight_map):
        raise CheckpointError(
            f"{path}: no weight_map, expected one that maps tensor names to shard files."
        )
    for name, shard in weight_map.items():
        if not (isinstance(shard, str) and _SHARD_NAME.fullmatch(shard)):
            raise CheckpointError(
                f"{path}: tensor {name[:80]!r} is said to be in {str(shard)[:80]!r}, which is not the plain name of a "
                ".safetensors file in this folder. An index that points elsewhere is not followed."
            )
    return weight_map


def read_json(path: Path, limit: int = 1_000_000, *, finite: bool = True) -> Any:
    """A JSON file of limited size, without duplicate keys and, if `finite`, without NaN or Infinity.

    Raises:
        CheckpointError: naming the file and what is wrong.
    """
    size = regular_file(path).st_size
    if size > limit:
        raise CheckpointError(f"{path} has {size:,} bytes; at most {limit:,} are read.")
    return parse_json(path.read_bytes(), str(path), finite=finite)


def parse_json(text: bytes, where: str, *, finite: bool = True) -> Any:
    """Parse JSON strictly; `where` names the source in the message."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CheckpointError(f"{where}: the key {key[:80]!r} occurs twice.")
            found[key] = value
        return found

    def constant(word: str) -> float:
        if finite:
            raise CheckpointError(f"{where}: {word} is not JSON.")
        return float(word)

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError also for whole numbers of more than 4,300 digits
        raise CheckpointError(f"{where} is not valid JSON ({error}).") from None


def regular_file(path: Path) -> os.stat_result:
    """The status of a regular file; a FIFO would hang and a device never end.

    Raises:
        CheckpointError: when it is missing, unreadable or not a regular file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file.")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path} cannot be read: permission denied.")
    return status


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _keys(entry: Any) -> str:
    return (", ".join(entry) if isinstance(entry, dict) and entry else repr(entry))[:200]


def written_header(
    tensors: Sequence[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The header of a safetensors file, padded with spaces to a multiple of 8 bytes, as the library writes it.

    Args:
        tensors: name, dtype and shape, in the order of their data.
        metadata: text by key.
    """
    document: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + math.prod(shape) * dtype.itemsize
        document[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
