"""A strict reader, and a writer, of the headers of safetensors files and of their index.

Model folders come from strangers, and the libraries are lenient where a server must not be. The
safetensors reader accepts a key twice (the last wins), shapes such as [0, 2**62], and a million
empty tensors, which cost 800 MB. transformers joins the file names of an index to the folder
without a check, so it reads `../../other/model.safetensors`. This module refuses all of that
before a byte of weights is read. Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from merging.errors import CheckpointError
from merging.inputs.strict_json import parse_json, read_json, regular_file

MAX_HEADER = 100_000_000  # the format's own limit
# Far above any real model, and low enough that a hostile header costs little memory.
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
# A plain file name: no slash and no leading dot, so that an index cannot point out of its folder.
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")


class TensorInfo(NamedTuple):
    """Dtype, shape and position of one tensor, from the header of its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Offset of the tensor's first byte from the beginning of the file."""
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)


class Header(NamedTuple):
    """The parsed header of one safetensors file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    raw: bytes
    """The first bytes of the file: 8 bytes of length and the JSON text. Digests cover them."""


def read_header(path: Path) -> Header:
    """Reads and checks the header of one safetensors file.

    Raises:
        CheckpointError: if the file is missing, cut short, or not a sound safetensors file. The
            message names the file, what is wrong with it, and what to do.
    """
    size = regular_file(path).st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        # Before the length is checked: these eight characters read as an impossible length, and the
        # message would say that the file was cut short.
        if prefix.startswith(b"version "):
            raise CheckpointError(
                f"{path} is a git-LFS pointer, not the weights. "
                "Run `git lfs pull` in its repository."
            )
        if len(prefix) < 8:
            raise CheckpointError(
                f"{path} has {size} bytes, too few for a safetensors file. Copy it again."
            )
        length = struct.unpack("<Q", prefix)[0]
        # A sound header of 640 bytes begins with 80 02, as pickles do. So a file counts as a pickle
        # only if the length is also impossible.
        pickled = (
            prefix[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
            or prefix[:4] == b"PK\x03\x04"
        )
        if pickled and length > min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path} is a pickle (PyTorch) file under another name. Pickles can run code and "
                "are never opened; save the model again with save_pretrained, which writes "
                "safetensors."
            )
        if length > min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path}: the header claims {length:,} bytes and the file has {size:,}. "
                "It is not a safetensors file, or it was cut short; compare its size with the "
                "source and copy it again."
            )
        # Only now: a false length could ask for 2⁶⁴ bytes of memory.
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
    _check_contiguous(path, tensors, 8 + length, size)
    return Header(tensors, metadata, prefix + text)


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    """Checks one entry of a header and returns it; `data_start` is the offset of the first data."""
    # Cut short, because a stranger's name can have megabytes.
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
    # Bounded, so that the product of the sizes cannot be a number of millions of digits.
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (
        _are_naturals(shape)
        and len(shape) <= 16
        and math.prod(max(size, 1) for size in shape) < 2**48
    ):
        raise CheckpointError(f"{where}: shape {str(shape)[:80]} is not a list of plausible sizes.")
    if not (_are_naturals(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
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


def _check_contiguous(path: Path, tensors: dict[str, TensorInfo], start: int, size: int) -> None:
    """Raises an error if the tensors leave holes, overlap, or do not end with the file.

    Bytes that belong to no tensor could hide anything, and no check would see them.
    """
    position = start
    # An empty tensor begins where its neighbour begins, so it must come first.
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
    """Reads the weight map of an index file: tensor name -> name of its shard.

    Raises:
        CheckpointError: if the file has no weight map, or the map names anything but plain
            .safetensors files in its own folder.
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
                f"{path}: tensor {name[:80]!r} is said to be in {str(shard)[:80]!r}, which is not "
                "the plain name of a .safetensors file in this folder. An index that points "
                "elsewhere is not followed."
            )
    return weight_map


def _are_naturals(values: Any) -> bool:
    # By type(), because isinstance takes JSON's true for a number.
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _keys(entry: Any) -> str:
    return (", ".join(entry) if isinstance(entry, dict) and entry else repr(entry))[:200]


def header_bytes(
    tensors: Sequence[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Returns the header of a safetensors file: 8 bytes of length, then the JSON text.

    The text is padded with spaces to a multiple of 8 bytes, as the library writes it.

    Args:
        tensors: name, dtype and shape of each tensor, in the order of their data.
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
