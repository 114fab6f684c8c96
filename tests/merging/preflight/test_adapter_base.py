"""An adapter that names another base is reported; one whose base cannot be compared is not."""

import json
import shutil

import pytest

from merging import preflight, prepare
from merging.recipe import parse_recipe

QUERY = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def folders(tmp_path, llama, tuned, write):
    """A base, a fine-tune of it with the same shapes, and a copy of the base."""
    weights = llama()
    write(tmp_path / "base", weights)
    write(tmp_path / "cot", tuned(weights, 1))
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    return weights


@pytest.fixture
def lora(tmp_path, folders, adapter):
    """Writes the adapter `dialog` whose configuration names a base."""

    def write_lora(named):
        path = adapter(tmp_path / "dialog", folders, [QUERY])
        config = json.loads((path / "adapter_config.json").read_text("utf-8"))
        text = json.dumps({**config, "base_model_name_or_path": named})
        (path / "adapter_config.json").write_text(text, "utf-8")
        return path

    return write_lora


def test_an_adapter_of_another_base_is_a_warning(tmp_path, lora):
    path = lora(str(tmp_path / "base"))
    opened = preflight(tmp_path / "cot", [path])
    (problem,) = opened.problems
    assert (problem.severity, problem.subject) == ("warning", "dialog")
    assert problem.text == (
        f"dialog was trained on {tmp_path / 'base'} (adapter_config.json); the recipe's base is "
        f"{tmp_path / 'cot'}. Results will be wrong if these differ. Choose the base that it was "
        "trained on."
    )
    assert list(opened.vectors) == ["dialog"]  # it is merged all the same


def test_a_relative_path_is_that_of_the_working_folder(tmp_path, lora, monkeypatch):
    path = lora("base")
    monkeypatch.chdir(tmp_path)
    assert preflight(tmp_path / "base", [path]).problems == []
    (problem,) = preflight(tmp_path / "cot", [path]).problems
    assert problem.message.startswith("dialog was trained on base (adapter_config.json); ")


def test_a_recipe_warns_too_and_may_be_merged(tmp_path, lora):
    lora(str(tmp_path / "base"))
    text = f"""
merge_method: task_arithmetic
base_model: {tmp_path / "cot"}
models:
  - {{model: {tmp_path / "dialog"}, parameters: {{weight: 0.5}}}}
"""
    problems = prepare(parse_recipe(text)).problems
    assert [(problem.severity, problem.subject) for problem in problems] == [("warning", "dialog")]


@pytest.mark.parametrize("named", ["base", "base/", "../{}/base", "link", "copy"])
def test_the_same_weights_under_another_path_are_no_problem(named, tmp_path, lora):
    (tmp_path / "link").symlink_to(tmp_path / "base")
    path = lora(str(tmp_path) + "/" + named.format(tmp_path.name))
    assert preflight(tmp_path / "base", [path]).problems == []


@pytest.mark.parametrize(
    "named",
    [None, "", 7, "org/model", "/nowhere/base", "a\0b", "x" * 5000, "/etc/passwd", "{}/empty"],
)
def test_a_base_that_cannot_be_compared_says_nothing(named, tmp_path, lora):
    (tmp_path / "empty").mkdir()
    path = lora(named.format(tmp_path) if isinstance(named, str) else named)
    assert preflight(tmp_path / "cot", [path]).problems == []
