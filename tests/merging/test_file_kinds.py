"""Weights, code and pickles are known by their names, and under other names by their first bytes."""

import bz2
import gzip
import io
import itertools
import lzma
import marshal
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from merging.file_kinds import HEAD, kind_by_content, kind_by_name


def kind(content: bytes):
    return kind_by_content(io.BytesIO(content))


@pytest.mark.parametrize(
    ("expected", "names"),
    [
        (
            "weights",
            "model.safetensors pytorch_model.bin q4.GGUF tf_model.h5 flax_model.msgpack model.onnx "
            "onnx/model.onnx_data model.onnx.data consolidated.00.pth x.ckpt x.tflite x.mlmodel "
            "model.ckpt.data-00000-of-00001 model.ckpt.index q.gguf.part1of2 model.safetensors.bak "
            "rust_model.ot saved_model.pb __0_0.distcp",
        ),
        (
            "code",
            "modeling_x.py x.pyc lib.so libx.so.1.2 run.sh a/b/demo.ipynb x.exe Makefile x.js "
            "x.bat x.jar x.py.bak",
        ),
        ("a pickle", "x.pkl x.pickle vectoriser.joblib x.pkl.gz"),
        ("an archive", "x.zip x.tar x.tar.gz x.7z x.tgz"),
        (
            None,
            "config.json source.spm target.spm vocab.txt bpe.codes tokenizer.model "
            "tokenizer.model.v3 tekken.json qwen.tiktoken chat_template.jinja LICENSE a.png "
            "vocab.pt.txt bin .gitattributes names.v1 bpe_simple_vocab_16e6.txt.gz voice.npy 1",
        ),
    ],
)
def test_names(expected, names):
    assert {name: kind_by_name(name) for name in names.split()} == dict.fromkeys(
        names.split(), expected
    )


def torch_file(**more):
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer, **more)
    return buffer.getvalue()


def array_file(values, save=np.save):
    buffer = io.BytesIO()
    save(buffer, values)
    return buffer.getvalue()


def zip_file(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_file():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


OBJECTS = np.array([{}, 1], dtype=object)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [{"a": [1, 2.5, "x"]}, os.system, np.arange(3)])
def test_pickles_of_every_protocol_are_known_under_any_name(protocol, value):
    content = pickle.dumps(value, protocol)
    assert kind(content) == kind(content + b"rest") == "a pickle"


def test_a_long_pickle_of_text_is_one_though_its_end_is_not_read():
    content = pickle.dumps([f"word {i}" for i in range(20_000)], 0)
    assert len(content) > HEAD and kind(content) == "a pickle"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (torch_file(), "a pickle"),
        (torch_file(_use_new_zipfile_serialization=False), "a pickle"),
        (gzip.compress(pickle.dumps({"a": 1})), "a pickle"),
        (bz2.compress(pickle.dumps({"a": 1})), "a pickle"),
        (lzma.compress(pickle.dumps({"a": 1})), "a pickle"),
        (zlib.compress(pickle.dumps({"a": 1})), "a pickle"),  # joblib.dump(compress=3)
        (array_file(OBJECTS), "a pickle"),
        (array_file(OBJECTS, np.savez), "a pickle"),
        (zip_file(**{"a/modeling.py": b"x"}), "code"),
        (zip_file(**{"a.txt": pickle.dumps({"a": 1})}), "a pickle"),
        (zip_file(**{f"{i}.txt": b"" for i in range(501)}), "an archive"),
        (b"PK\x03\x04 cut short", "an archive"),
        (tar_file(), "an archive"),
        (gzip.compress(zip_file(a=b"x")), "an archive"),
        (b"7z\xbc\xaf\x27\x1c...", "an archive"),
        (b"#!/bin/sh\nrm -rf /\n", "code"),
        (b"MZ" + bytes(60) + b"PE\0\0", "code"),
        (MAGIC_NUMBER + bytes(12) + marshal.dumps(compile("1", "x", "exec")), "code"),
        (save({"w": torch.ones(3)}), "weights"),
        (b"GGUF" + bytes(20), "weights"),
        (b"\x89HDF\r\n\x1a\n", "weights"),
        (b"\x1c\0\0\0TFL3" + bytes(20), "weights"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.0.1:", "weights"),  # ONNX
    ],
    # By number: contents hold the time, and two processes must collect the same names.
    ids=itertools.count(),
)
def test_contents(content, expected):
    assert kind(content) == expected


def test_this_interpreter_is_code():
    with Path(sys.executable).open("rb") as file:
        assert kind_by_content(file) == "code"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"N. B. this is prose, and also a pickle of None",
        b"hello.",
        b"(l. 5 of a text)",
        b"I.e., the licence",
        b"ab\r\nabcdefghijklc of a text with the line ends of Windows",
        b"#version: 0.2\na b\n",
        "größer\n".encode(),
        struct.pack("<Q", 2**40) + b"{",
        array_file(np.arange(4)),
        array_file(np.arange(4), np.savez),
        zip_file(**{"a.txt": b"text"}),
        gzip.compress(b"vocabulary " * 50),
        b"\x1f\x8b not gzip",
        b"x\x9c not zlib",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02",  # SentencePiece
    ],
    ids=itertools.count(),
)
def test_other_contents(content):
    assert kind(content) is None


def test_an_archive_with_a_password_is_not_looked_into():
    content = bytearray(zip_file(a=b"text"))
    # Bit 0 of the flags, in the entry of the file and in the directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert kind(bytes(content)) == "an archive"
