"""Hostile and broken headers, each refused with the file, the tensor and what to do."""

import json
import os
import random
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from merging import CheckpointError
from merging.inputs.header import (
    DTYPES,
    MAX_HEADER,
    MAX_INDEX,
    MAX_TENSORS,
    NAMES,
    parse_json,
    read_header,
    read_index,
    read_json,
)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def file_of(tmp_path, header, data=b"\0" * 8, name="model.safetensors"):
    """A file with a header given as JSON text, bytes or a document."""
    text = (
        header
        if isinstance(header, bytes)
        else (header if isinstance(header, str) else json.dumps(header)).encode()
    )
    path = tmp_path / name
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_what_the_library_writes_is_read(tmp_path):
    tensors = {
        "a.weight": torch.arange(6, dtype=torch.float32).view(2, 3),
        "b": torch.tensor(7, dtype=torch.int64),
        "c": torch.empty(0, 5, dtype=torch.bfloat16),
        "d": torch.tensor([True]),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.metadata == {"format": "pt"}
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()
    }
    content = (tmp_path / "x.safetensors").read_bytes()
    start, nbytes = header.tensors["a.weight"].start, header.tensors["a.weight"].nbytes
    assert torch.frombuffer(
        bytearray(content[start : start + nbytes]), dtype=torch.float32
    ).tolist() == list(range(6))
    assert content.startswith(header.raw)
    assert (header.tensors["c"].numel, header.tensors["b"].numel) == (0, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_the_format_has_a_name_and_the_size_it_says(dtype, tmp_path):
    size = DTYPES[dtype].itemsize
    header = read_header(
        file_of(tmp_path, {"t": entry(dtype, (3,), (0, 3 * size))}, b"\0" * 3 * size)
    )
    assert header.tensors["t"].dtype == DTYPES[dtype]
    assert NAMES[DTYPES[dtype]] == dtype


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_reads_like_the_magic_of_pickles_is_read(length, tmp_path):
    text = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + text.ljust(length) + b"x")
    assert path.read_bytes()[0] == 0x80 and list(read_header(path).tensors) == ["w"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes, too few for a safetensors file. Copy it again"),
        (b"1234567", "has 7 bytes, too few"),
        (struct.pack("<Q", 0), "header is not valid JSON"),
        (
            struct.pack("<Q", 9) + b"{}",
            "the header claims 9 bytes and the file has 10. .*cut short.*copy it again",
        ),
        (struct.pack("<Q", 2**63) + b"{}", "the header claims 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "not a safetensors file, or it was cut short"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git-LFS pointer.*Run `git lfs pull`",
        ),
        (
            b"\x80\x02}q\x00.         ",
            "is a pickle .*under another name. .*never opened; save the model again",
        ),
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00", "is a pickle"),
        (b"PK\x03\x04 a zip, as torch.save writes", "is a pickle"),
        (b"GGUF\x03\x00\x00\x00\x00\x00", "not a safetensors file"),
        (b"\x89HDF\r\n\x1a\n     ", "not a safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(content, message, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_a_header_above_the_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", MAX_HEADER + 1))
    os.truncate(path, MAX_HEADER + 100)  # a hole on disk, not 100 MB
    with pytest.raises(CheckpointError, match="the header claims 100,000,001 bytes"):
        read_header(path)


TOO_MANY = ",".join(
    f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(MAX_TENSORS + 1)
)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\xff\xfe{}", "header is not valid JSON"),
        (b"\xef\xbb\xbf{}", "header is not valid JSON .*BOM"),
        ("[" * 100_000, "header is not valid JSON .*recursion"),
        ('{"t": ' * 5000 + "1" + "}" * 5000, "header is not valid JSON"),
        ("[1]", "the header is a JSON list, expected an object"),
        ('"x"', "the header is a JSON str"),
        (
            '{"t": {"dtype": "F32", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 8]}}',
            "not valid JSON",
        ),
        ('{"a": NaN}', "NaN is not JSON"),
        ({"__metadata__": ["x"]}, "__metadata__ must map strings to strings"),
        ({"__metadata__": {"a": 1}}, "__metadata__ must map strings to strings"),
        ('{"t": 1, "t": 2}', "the key 't' occurs twice"),
        (
            '{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"shape":[2]}}',
            "the key 'shape' occurs twice",
        ),
        ("{" + TOO_MANY + "}", "200,001 tensors in one file; at most 200,000 are read"),
        ({"t": 1}, "tensor 't': expected dtype, shape and data_offsets, found 1"),
        ({"t": {}}, "expected dtype, shape and data_offsets, found {}"),
        ({"t": "x" * 999}, "expected dtype, shape and data_offsets, found 'xxx"),
        ({"t": {"dtype": "F32", "shape": []}}, "found dtype, shape"),
        ({"t": entry() | {"more": 1}}, "found dtype, shape, data_offsets, more"),
        ({"t": entry("F8_E8M0")}, "tensor 't': dtype 'F8_E8M0' is not one of F64, F32"),
        ({"t": entry("f32")}, "dtype 'f32' is not one of"),
        ({"t": entry([])}, r"dtype '\[\]' is not one of"),
        ({"t": entry({})}, "dtype '{}' is not one of"),
        ({"t": entry(None)}, "dtype 'None' is not one of"),
        ({"t": entry(shape=[-2])}, r"shape \[-2\] is not a list of plausible sizes"),
        ({"t": entry(shape=[2.0])}, "plausible sizes"),
        ({"t": entry(shape=[True, 2])}, "plausible sizes"),
        ({"t": entry(shape=["2"])}, "plausible sizes"),
        ({"t": entry(shape=[0, 2**62], offsets=(0, 0))}, "plausible sizes"),
        ({"t": entry(shape=[2**40, 2**40])}, "plausible sizes"),
        ({"t": entry(shape=[1] * 17)}, "plausible sizes"),
        ({"t": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, "plausible sizes"),
        ({"t": entry(offsets=(8, 0))}, r"data_offsets \[8, 0\] are not a begin and an end"),
        ({"t": entry(offsets=(0, 8.0))}, "are not a begin and an end"),
        ({"t": entry(offsets=(-8, 0))}, "are not a begin and an end"),
        ({"t": entry(offsets=(0, 4, 8))}, "are not a begin and an end"),
        ({"t": entry(shape=[3])}, r"8 bytes do not hold F32 of shape \[3\]"),
        ({"t": entry("F64", (2,))}, "8 bytes do not hold F64"),
        (
            {"": entry()},
            "tensor '': a name must be 1 to 512 printable ASCII characters without spaces",
        ),
        ({"n" * 513: entry()}, "a name must be"),
        ({"a b": entry()}, "a name must be"),
        ({"a\u202eb": entry()}, "a name must be"),
        ({"а": entry()}, "a name must be"),  # a Cyrillic letter that looks Latin
        ({"a\x00": entry()}, "a name must be"),
        ({"a\n": entry()}, "a name must be"),
        ({"<img onerror=alert(1)>": entry()}, "a name must be"),
    ],
)
def test_a_crafted_header_is_refused(header, message, tmp_path):
    path = file_of(tmp_path, header)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "tensor 'b' overlaps its neighbour"),
        ({"a": entry(), "b": entry()}, 8, "tensor 'b' overlaps its neighbour"),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "tensor 'b' leaves a hole before it"),
        ({"a": entry(offsets=(4, 12))}, 12, "tensor 'a' leaves a hole before it"),
        ({"a": entry()}, 11, "3 bytes follow the last tensor; they belong to nothing"),
        ({}, 5, "5 bytes follow the last tensor"),
        (
            {"a": entry(), "b": entry(offsets=(8, 16))},
            9,
            r"is cut short: .* \(7 missing\). Copy or download it again",
        ),
    ],
)
def test_overlaps_holes_and_leftovers_are_refused(header, data, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read_header(file_of(tmp_path, header, b"\0" * data))


def test_a_name_that_looks_like_a_path_is_only_a_key(tmp_path):
    assert list(read_header(file_of(tmp_path, {"../../x": entry()})).tensors) == ["../../x"]


@settings(deadline=None)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_any_byte_changed_or_cut_gives_the_same_tensors_or_an_error_of_ours(
    tmp_path_factory, position, byte, cut
):
    """Fuzzing: nothing but CheckpointError comes out, whatever a byte of the header becomes."""
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    path = folder / "m.safetensors"
    save_file(
        {"a": torch.ones(3, 2), "b.weight": torch.zeros(5, dtype=torch.int8)},
        path,
        {"format": "pt"},
    )
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content[: position % len(content)] if cut else content)
    try:
        header = read_header(path)
    except CheckpointError:
        return
    assert sum(info.nbytes for info in header.tensors.values()) == path.stat().st_size - len(
        header.raw
    )


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["t", "dtype", "shape", "data_offsets", "__metadata__"])
                | st.text(),
                x,
            )
        ),
    )
)
def test_any_json_as_a_header_gives_an_error_of_ours(tmp_path_factory, document):
    folder = tmp_path_factory.getbasetemp() / "fuzz2"
    folder.mkdir(exist_ok=True)
    path = file_of(folder, json.dumps(document))
    with pytest.raises(CheckpointError):
        read_header(path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_is_no_regular_file_is_refused_at_once(name, tmp_path):
    path = tmp_path / name
    read = read_header if name.endswith("safetensors") else read_json
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: No such file or directory"):
        read(path)
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=f"{name} is not a regular file"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=f"{name} is not a regular file"):
        read(path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=f"{name} is not a regular file"):
        read(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(CheckpointError, match="cannot be read: Too many levels of symbolic links"):
        read(path)


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = file_of(tmp_path, {"t": entry()})
    monkeypatch.setattr(os, "access", lambda *_: False)  # chmod 0 says nothing to root
    with pytest.raises(CheckpointError, match="cannot be read: permission denied"):
        read_header(path)


@pytest.mark.parametrize(
    "shard",
    [
        "../../other/model.safetensors",
        "/etc/passwd",
        "/x.safetensors",
        "a\\b.safetensors",
        "C:\\x.safetensors",
        "x.safetensors\0",
        "x.safetensors\n",
        ".hidden.safetensors",
        "sub/x.safetensors",
        "pytorch_model.bin",
        "",
        7,
        None,
        ["x.safetensors"],
    ],
)
def test_an_index_that_points_elsewhere_is_not_followed(shard, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "w": shard}}))
    with pytest.raises(
        CheckpointError, match=r"tensor 'w' is said to be in .*points elsewhere is not followed"
    ):
        read_index(path)


@pytest.mark.parametrize(
    "document", [[], {}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": None}, 3]
)
def test_an_index_without_a_map_is_refused(document, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(document))
    with pytest.raises(
        CheckpointError, match="no weight_map, expected one that maps tensor names to shard files"
    ):
        read_index(path)


def test_an_index_is_read(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    assert read_index(path) == {"a": "model-00001-of-00002.safetensors"}


def test_a_json_file_above_its_limit_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    os.truncate(path, 1_000_001)
    with pytest.raises(CheckpointError, match="has 1,000,001 bytes; at most 1,000,000 are read"):
        read_json(path)
    os.truncate(path, MAX_INDEX + 1)
    with pytest.raises(CheckpointError, match="at most 64,000,000 are read"):
        read_index(path)


def test_numbers_that_are_not_finite_only_where_they_are_allowed():
    assert parse_json(b'{"limit": [0.0, Infinity]}', "x", finite=False) == {
        "limit": [0.0, float("inf")]
    }
    for word in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(CheckpointError, match=f"x: {word} is not JSON"):
            parse_json(word.encode(), "x")


def test_random_bytes_are_refused(tmp_path):
    chance = random.Random(1)
    for size in (8, 9, 100, 1000):
        path = tmp_path / "r.safetensors"
        path.write_bytes(chance.randbytes(size))
        with pytest.raises(CheckpointError):
            read_header(path)
