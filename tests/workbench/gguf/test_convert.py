"""Conversion as a user runs it: a folder that is whole, or one message and nothing written."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from merging.errors import ExportError
from merging.inputs.checkpoint import Checkpoint
from training.run.base import open_base
from workbench.errors import SessionError
from workbench.gguf import convert as module
from workbench.gguf.convert import convert


@pytest.fixture(scope="module")
def file(make, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "tiny.Q8_0.gguf"
    make(path, quantised="Q8_0")
    return path


def left(folder):
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.slow
def test_a_file_becomes_a_base_with_a_card(file, tmp_path):
    done = convert(file, tmp_path / "out", "bfloat16")
    assert done.quantised and done.types["Q8_0"] > done.types["F32"] and done.notes == ()
    assert Checkpoint(tmp_path / "out").numel == done.parameters
    base = open_base(tmp_path / "out")
    assert base.dtype == "bfloat16" and base.tokenizer("one").input_ids
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "The inputs were quantised" in card and "tiny.Q8_0.gguf" in card
    assert left(tmp_path) == ["out"]
    modes = {each.stat().st_mode & 0o777 for each in (tmp_path / "out").iterdir()}
    assert modes == {0o666 & ~umask()}


def umask():
    now = os.umask(0)
    os.umask(now)
    return now


@pytest.mark.slow
def test_the_command(file, tmp_path):
    words = [sys.executable, "-m", "workbench.cli", "convert", str(file), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "weights in float32, from Q8_0, F32; the inputs were quantised" in done.stdout


def cut(share):
    def change(content):
        return content[: int(len(content) * share)]

    return change


def with_count(at, value):
    """The file with another 64-bit number at a place of its header."""

    def change(content):
        return content[:at] + struct.pack("<Q", value) + content[at + 8 :]

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut(0.95), "cut off, damaged"),
        (cut(0.03), "cut off, damaged"),
        (lambda content: content[:30], "cut off, damaged"),
        (with_count(8, 2**40), "cut off, damaged|more than .* of memory"),  # tensors
        (with_count(16, 2**40), "cut off, damaged|more than .* of memory"),  # settings
        (with_count(24, 2**62), "cut off, damaged|more than .* of memory"),  # length of a name
        (lambda content: content[:4] + bytes(4) + content[8:], "cut off, damaged"),  # version
    ],
    ids=["data", "header", "start", "tensors", "settings", "name", "version"],
)
def test_a_damaged_or_hostile_file_is_named_and_nothing_is_written(file, tmp_path, change, words):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(change(file.read_bytes()))
    with pytest.raises(SessionError, match=f"bad.gguf: .*({words})"):
        convert(bad, tmp_path / "out")
    assert left(tmp_path) == ["bad.gguf"]


@pytest.mark.slow
def test_the_reader_takes_no_more_memory_than_it_may(file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_AT_LEAST", 1)
    monkeypatch.setattr(module, "MEMORY_PER_BYTE", 0)
    with pytest.raises(SessionError, match="takes more than .* of memory. Close other programs"):
        convert(file, tmp_path / "out")
    assert left(tmp_path) == []


@pytest.mark.slow
def test_a_reader_that_does_not_end_is_ended(file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_AT_LEAST", 0.1)
    with pytest.raises(SessionError, match="was not read after .* s, and the reading was ended"):
        convert(file, tmp_path / "out")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-signal.SIGBUS, "became shorter while it was read"),
        (-signal.SIGKILL, "ended by the system .SIGKILL."),
        (-signal.SIGSEGV, "ended by the system .SIGSEGV."),
        (3, "ended with code 3: the last line"),
    ],
)
def test_the_end_of_a_reader_without_an_answer_is_told(code, words):
    done = subprocess.CompletedProcess([], code, "some output\n[1]\n", "first\nthe last line\n")
    assert module._answer(done.stdout) is None
    with pytest.raises(SessionError, match=words):
        raise SessionError(module._how_it_ended(Path("f"), done, 10**9))


def test_what_is_no_gguf_file_is_refused_before_it_is_read(file, tmp_path, monkeypatch):
    (tmp_path / "other").write_bytes(b"PK\x03\x04 something else")
    (tmp_path / "made").mkdir()
    for given, out, dtype, words in (
        (tmp_path / "none", "out", "float32", "none does not exist. Give the path of a GGUF file"),
        (tmp_path / "made", "out", "float32", "made is a folder. Give the path of a GGUF file"),
        (tmp_path / "other", "out", "float32", "does not begin with the bytes GGUF"),
        (file, "made", "float32", "made exists already. Give a new folder"),
        (file, "out", "int8", "dtype is 'int8'; expected one of: float32, bfloat16, float16"),
    ):
        with pytest.raises(SessionError, match=words):
            convert(given, tmp_path / out, dtype)
    with pytest.raises(ExportError, match="nowhere is not a folder. Make it first"):
        convert(file, tmp_path / "nowhere" / "out")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SessionError, match="needs the package gguf.*pip install gguf"):
        convert(file, tmp_path / "out")
    assert left(tmp_path) == ["made", "other"]
