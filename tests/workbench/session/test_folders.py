"""The page opens nothing to which a link leads out of its roots."""

import json
import os
import shutil
from pathlib import Path

import pytest

from workbench.comparison.added_models import add
from workbench.comparison.contenders import contenders
from workbench.errors import SessionError
from workbench.session import opening
from workbench.session.folders import Folders
from workbench.session.session import Session


@pytest.fixture
def roots(tmp_path):
    """A root with a model, and a secret outside."""
    (tmp_path / "secret").write_text("s")
    model = tmp_path / "root" / "model"
    (model / "2_Dense").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    return tmp_path / "root"


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors", "model-00001-of-00002.safetensors", "adapter_model.safetensors",
        "delta.safetensors", "vector.json", "tokenizer.json", "source.spm", "LICENSE",
        "2_Dense/model.safetensors", "sums/validation.jsonl", "order.json", "templates",
    ],
)  # fmt: skip
def test_a_folder_with_a_link_that_leads_out_is_refused_by_the_links_name(roots, name):
    link = roots / "model" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(roots.parent if name == "templates" else roots.parent / "secret")
    folders = Folders([roots])
    with pytest.raises(SessionError, match=f"{name} is a link that leads out of the folders"):
        folders.resolve(roots / "model")
    assert folders.resolve(roots / "model", whole=False) == roots / "model"


def test_links_inside_the_roots_and_into_a_hub_caches_blobs_are_followed(roots):
    (roots / "shared").mkdir()
    (roots / "shared" / "w").write_text("w")
    (roots / "model" / "model.safetensors").symlink_to("../shared/w")
    assert Folders([roots]).resolve(roots / "model") == roots / "model"
    repository = roots.parent / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / ("b" * 64)).write_text("w")
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{'b' * 64}")
    assert Folders([snapshot]).resolve(snapshot) == snapshot
    (snapshot / "config.json").symlink_to(roots.parent / "secret")
    with pytest.raises(SessionError, match="config.json is a link that leads out"):
        Folders([snapshot]).resolve(snapshot)


def test_training_data_behind_a_link_is_not_offered(roots):
    for name in ("in", "out"):
        (roots / name).mkdir()
    (roots / "in" / "train.jsonl").touch()
    (roots / "out" / "train.jsonl").symlink_to(roots.parent / "secret")
    assert [source.label for source in Folders([roots]).sources()] == ["root/in"]


@pytest.fixture
def copies(world, tmp_path):
    """A root with copies of the demo's models."""
    return shutil.copytree(world, tmp_path / "copies", symlinks=True)


def test_a_session_opens_no_weights_that_lie_outside(copies, tmp_path):
    ada = copies / "ada" / "model.safetensors"
    shutil.move(ada, tmp_path / "elsewhere")
    ada.symlink_to(tmp_path / "elsewhere")
    session = Session([copies], tmp_path / "workdir")
    try:
        chosen = [(copies / "ada", None)]
        with pytest.raises(SessionError, match=r"ada/model.safetensors is a link that leads out"):
            session.open(copies / "base", chosen, copies / "data")
        with pytest.raises(SessionError, match=r"ada/model.safetensors is a link that leads out"):
            add(session, copies / "ada")
        assert not session.ready
    finally:
        session.close()


def test_an_added_model_is_checked_whenever_it_is_read(copies, tmp_path):
    session = Session([copies / "base", copies / "bob"], tmp_path / "workdir")
    try:
        session.open(copies / "base", [(copies / "bob", None)])
        # As a server left it that was started with more folders.
        session.workdir.compared.write_text(json.dumps({"ada": str(copies / "ada")}))
        listed = contenders(session)
        assert "ada" not in [contender.name for contender in listed.contenders]
        assert any(note.startswith("ada cannot be compared: ") for note in listed.notes)
    finally:
        session.close()


def test_the_recipe_beside_a_base_that_is_a_root_itself_is_not_read(copies, tmp_path, monkeypatch):
    """It would be outside; the demo's own recipe is inside, and read."""
    read = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: read.append(os.fspath(path)) or is_file(path))
    opening.best_omegas(copies / "base", [], Folders([copies / "base"]).reach)
    assert read == []
    opening.best_omegas(copies / "base", [], Folders([copies]).reach)
    assert str(copies / "recipe.yml") in read
