"""The folder of the page: complete, openable, and what a user put there stays."""

import os
import shutil

import pytest

from merging import Recipe, open_recipe, read_recipe, recipe_yaml
from workbench.cli import main
from workbench.errors import SessionError
from workbench.real import page_folder as module
from workbench.real.base import RealBase
from workbench.real.page_folder import page_folder


@pytest.fixture
def shipped(tmp_path, tiny_base, tiny_adapter, monkeypatch):
    """What ships, with one adapter, and a tiny base in the place of the real one."""
    folder = tmp_path / "shipped"
    shutil.copytree(tiny_adapter, folder / "calls")
    (folder / "data" / "calls").mkdir(parents=True)
    (folder / "data" / "calls" / "test.jsonl").write_text("{}\n")
    recipe = Recipe.compose(tiny_base, {"calls": folder / "calls"}, {"calls": 0.7})
    text = recipe_yaml(recipe).replace(f"{folder}/", "").replace(str(tiny_base), "base")
    (folder / "recipe.yml").write_text(text)
    monkeypatch.setattr(module, "REAL", folder)
    monkeypatch.setattr(module, "real_base", lambda: RealBase(tiny_base, True))
    return folder


def test_its_recipe_opens_wherever_it_is(shipped, tmp_path, capsys):
    assert main(["real", "path", "--out", str(tmp_path / "here")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "here")
    recipe = read_recipe(tmp_path / "here" / "recipe.yml")
    assert recipe.omegas == {"calls": 0.7}
    base, vectors = open_recipe(recipe)
    assert base.path == tmp_path / "here" / "base" and list(vectors) == ["calls"]
    assert (tmp_path / "here" / "data" / "calls" / "test.jsonl").read_text() == "{}\n"


def test_a_second_call_copies_what_has_changed_and_keeps_what_is_the_users(shipped, tmp_path):
    folder, _ = page_folder(tmp_path / "here")
    (folder / "mine").mkdir()
    (folder / "mine" / "adapter_config.json").write_text("{}")
    before = (folder / "calls" / "adapter_model.safetensors").stat().st_ino
    (shipped / "data" / "calls" / "test.jsonl").write_text("{}\n{}\n")
    page_folder(folder)
    assert (folder / "data" / "calls" / "test.jsonl").read_text() == "{}\n{}\n"
    assert (folder / "calls" / "adapter_model.safetensors").stat().st_ino == before
    assert (folder / "mine" / "adapter_config.json").read_text() == "{}"
    assert not list(folder.rglob("*.partial"))


def test_where_files_cannot_be_linked_they_are_copied(shipped, tmp_path, tiny_base, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    folder, base = page_folder(tmp_path / "here")
    for name in ("config.json", "model.safetensors"):
        assert (base.folder / name).read_bytes() == (tiny_base / name).read_bytes()
    assert base.folder == folder / "base"


def test_a_base_that_was_made_anew_replaces_the_former(shipped, tmp_path, tiny_base, monkeypatch):
    folder, _ = page_folder(tmp_path / "here")
    shutil.copytree(tiny_base, tmp_path / "new")
    (tmp_path / "new" / "config.json").write_text('{"new": true}')
    monkeypatch.setattr(module, "real_base", lambda: RealBase(tmp_path / "new", False))
    _, base = page_folder(folder)
    assert not base.same and (folder / "base" / "config.json").read_text() == '{"new": true}'


def test_without_adapters_the_next_step_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REAL", tmp_path)
    with pytest.raises(SessionError, match="holds no adapters.*dem real build"):
        page_folder(tmp_path / "here")
    assert not (tmp_path / "here").exists()
