"""Tells weights, code and pickles from other files, by their names and by their first bytes.

Names are looked at first: they are all that is known of a file that was not downloaded yet. Bytes
are looked at as well, because a pickle stays a pickle under the name `vocab.txt`. Nothing that is
read here is unpickled, run or extracted.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import pickletools
import re
import zipfile
import zlib
from typing import BinaryIO, Literal

Kind = Literal["weights", "code", "a pickle", "an archive"]
"""What a file is; an archive is a file that holds others and that is not looked into."""

_SUFFIXES: dict[Kind, str] = {
    "weights": (
        "safetensors bin pt pth ckpt gguf ggml ggmf ggjt llamafile onnx onnx_data ort h5 hdf5 "
        "keras msgpack flax tflite litertlm mlmodel mlpackage mlmodelc pb ot nemo engine trt pte "
        "ptl distcp params pdparams pdiparams pdopt pdmodel caffemodel weights tensors mnn ncnn "
        "dlc rknn hef axmodel exl2 nnue orbax"
    ),
    "a pickle": "pkl pickle pck joblib dill cloudpickle",
    "code": (
        "py pyc pyo pyd pyx pyi pyw pyz ipynb so dll dylib exe com msi sh bash zsh fish csh ksh "
        "bat cmd ps1 psm1 vbs js mjs cjs ts jsx tsx jar class java kt scala c cc cpp cxx cu cuh h "
        "hh hpp m mm cl rs go rb pl pm php lua r rmd jl swift cs fs wasm whl egg deb rpm apk app "
        "appimage dmg o a lib ptx cubin fatbin metal mojo sql applescript desktop lnk"
    ),
    "an archive": "zip tar tgz tbz txz 7z rar zst zstd lz4 iso",
}
_BY_SUFFIX = {suffix: kind for kind, words in _SUFFIXES.items() for suffix in words.split()}
_CODE_NAMES = ("makefile", "dockerfile", "jenkinsfile")
# What tools append to a file's name: parts, copies, compression, TensorFlow's data and index.
_APPENDED = re.compile(
    r"\d+|bak|backup|old|orig|tmp|temp|copy|incomplete|part.*|split.*|chunk.*|data.*|index|meta|"
    r"gz|bz2|xz"
)

HEAD = 2**16
"""How many bytes of a file are looked at."""
_MEMBERS = 500
"""The most files in a zip file that are looked at."""
# At the beginning of a file: https://en.wikipedia.org/wiki/List_of_file_signatures
_SIGNATURES: dict[bytes, Kind] = {
    b"\x7fELF": "code",
    b"\xfe\xed\xfa\xce": "code",
    b"\xfe\xed\xfa\xcf": "code",
    b"\xce\xfa\xed\xfe": "code",
    b"\xcf\xfa\xed\xfe": "code",
    b"\xca\xfe\xba\xbe": "code",
    b"\0asm": "code",
    b"dex\n": "code",
    b"GGUF": "weights",
    b"\x89HDF\r\n\x1a\n": "weights",
    b"\x28\xb5\x2f\xfd": "an archive",
    b"\x04\x22\x4d\x18": "an archive",
    b"7z\xbc\xaf\x27\x1c": "an archive",
    b"Rar!\x1a\x07": "an archive",
}
# ONNX has no signature; its first fields are the version and the program that wrote it.
_ONNX = re.compile(rb"\x08[\x01-\x1f]\x12[\x01-\x40][\x20-\x7e]+[\x1a\x22\x28\x32\x3a]")
# Operations of a pickle that import or call something.
_CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}
_CALLS |= {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}


def kind_by_name(name: str) -> Kind | None:
    """Returns what a file is by its name; None if the name does not say that it is any of these.

    >>> kind_by_name("onnx/model.onnx_data"), kind_by_name("vocab.json")
    ('weights', None)
    >>> kind_by_name("model.ckpt.data-00000-of-00001"), kind_by_name("tokenizer.model.v3")
    ('weights', None)
    """
    base, *suffixes = name.rpartition("/")[2].lower().split(".")
    if not suffixes:
        return "code" if base in _CODE_NAMES else None
    while len(suffixes) > 1 and _APPENDED.fullmatch(suffixes[-1]):
        suffixes.pop()
    return _BY_SUFFIX.get(suffixes[-1])


def kind_by_content(file: BinaryIO) -> Kind | None:
    """Returns what an open file is by its first bytes; None if it is none of these.

    Args:
        file: at its beginning, and seekable. Its position afterwards is anywhere.
    """
    head = file.read(HEAD)
    size = file.seek(0, io.SEEK_END)
    if head[:2] == b"PK":
        return _zip_kind(file)
    return _kind(head, size)


def _kind(head: bytes, size: int, *, packed: bool = False) -> Kind | None:
    """Returns what a file is by its first bytes.

    Args:
        head: its first HEAD bytes, or all of them.
        size: how many bytes it has.
        packed: whether these bytes were unpacked from a compressed file; they are not once more.
    """
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if (head[:2] == b"#!" and b"/" in head[:100]) or (head[:2] == b"MZ" and b"PE\0\0" in head):
        return "code"
    # Bytecode of Python: two bytes of the version and a line end; a code object from byte 16 on.
    if head[2:4] == b"\r\n" and head[1:2] in b"\x0c\r\x0e\x0f\xf3" and head[16:17] in b"\xe3c":
        return "code"
    if head[4:8] == b"TFL3" or _ONNX.match(head) or _is_safetensors(head, size):
        return "weights"
    if _is_pickle(head) or (head[:6] == b"\x93NUMPY" and _holds_objects(head)):
        return "a pickle"
    if head[257:262] == b"ustar" or head[:2] == b"PK":
        return "an archive"
    unpacked = None if packed else _unpacked(head)
    return None if unpacked is None else _kind(unpacked, len(unpacked), packed=True)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Returns whether a file begins with the length of a header, and that header's JSON."""
    return head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= size


def _holds_objects(head: bytes) -> bool:
    """Returns whether a NumPy array has elements of Python, which are stored as a pickle."""
    return re.search(rb"'[|<>=]?O\d*'", head[:1000]) is not None


def _is_pickle(head: bytes) -> bool:
    """Returns whether bytes begin with a pickle of any protocol."""
    # From protocol 2 on a pickle begins with its number after a byte that begins no text.
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    # Older ones are text and begin with any operation. A program that keeps its stack sound until
    # it stops is hardly ever something else, unless it is very short: "N." is one.
    operations: list[str] = []
    end = 0
    # The errors of a file that is no pickle: an unknown operation, or an operand that is not one.
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        for operation, _, at in pickletools.genops(head):
            operations.append(operation.name)
            if operation.name == "STOP":
                end = (at or 0) + 1
    if not end:
        return len(head) == HEAD and len(operations) > 1000
    with contextlib.suppress(ValueError, IndexError, KeyError):
        pickletools.dis(head[:end], io.StringIO())
        return len(operations) > 3 or bool(_CALLS & set(operations))
    return False


def _unpacked(head: bytes) -> bytes | None:
    """Returns the first bytes of what a compressed file holds; None if it is not compressed."""
    with contextlib.suppress(zlib.error, OSError, lzma.LZMAError, EOFError):
        if head[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=31).decompress(head, HEAD)
        if head[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(head, HEAD)
        if head[:6] == b"\xfd7zXZ\0":
            return lzma.LZMADecompressor().decompress(head, HEAD)
        # joblib compresses with zlib, whose header is two bytes that divide by 31.
        if head[:1] == b"x" and int.from_bytes(head[:2], "big") % 31 == 0:
            return zlib.decompressobj().decompress(head, HEAD)
    return None


def _zip_kind(file: BinaryIO) -> Kind | None:
    """Returns the first kind among the files in a zip file; 'an archive' if they cannot be read.

    torch.save writes a zip file with a pickle in it, and numpy.savez one of arrays.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if len(names) > _MEMBERS:
                return "an archive"
            for name in names:
                with archive.open(name) as member:
                    head = member.read(HEAD)
                if kind := kind_by_name(name) or _kind(head, len(head)):
                    return kind
    # RuntimeError: it needs a password. NotImplementedError: a compression that Python lacks.
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, ValueError, zlib.error):
        return "an archive"
    return None
