"""A vector whose training names another base is reported: by digest if there is one, else by name."""

import json
import shutil
from pathlib import Path

import pytest

from merging import Checkpoint, preflight, prepare
from merging.preflight.training_record import sampled_identity
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

    def write_lora(named, revision=None):
        path = adapter(tmp_path / "dialog", folders, [QUERY])
        config = json.loads((path / "adapter_config.json").read_text("utf-8"))
        text = json.dumps({**config, "base_model_name_or_path": named, "revision": revision})
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
        f"{tmp_path / 'cot'}. Results will be wrong: their weights differ. Choose the base that it "
        "was trained on."
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


def test_the_same_weights_in_other_files_are_no_problem(tmp_path, lora, folders, write):
    write(tmp_path / "sharded", folders, shards=3)
    path = lora(str(tmp_path / "sharded"))
    assert preflight(tmp_path / "base", [path]).problems == []
    (problem,) = preflight(tmp_path / "cot", [path]).problems
    assert "their weights differ" in problem.message


@pytest.mark.parametrize(
    ("named", "base", "severity"),
    [
        # The reported case: the name is all that there is, and it is another one.
        ("base", "cot", "warning"),
        ("/nowhere/base", "cot", "warning"),
        ("org/model", "cot", "warning"),
        ("/etc/passwd", "cot", "warning"),
        ("{}/empty", "cot", "warning"),
        ("C:\\models\\Llama-3", "cot", "warning"),
        ("/elsewhere/cot", "cot", None),
        ("org/cot@v1", "cot", None),
        ("/elsewhere/C-o.T/", "cot", None),
        ("C:\\models\\cot", "cot", None),
        ("org/model", "models--org--model/snapshots/0123", None),
        ("ORG/Model", "models--org--model/snapshots/0123", None),
        ("my/model", "models--org--model/snapshots/0123", "info"),
        ("org/other", "models--org--model/snapshots/0123", "warning"),
        ("/elsewhere/model", "models--org--model/snapshots/0123", None),
        ("/elsewhere/0123", "models--org--model/snapshots/0123", "warning"),
        ("org/origin", "with origin", "info"),
        ("org/other", "with origin", "warning"),
        ("/somewhere/link", "link", None),
        ("/somewhere/cot", "link", None),
    ],
)
def test_a_base_that_is_not_here_is_compared_by_name(named, base, severity, tmp_path, lora):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("cot")
    shutil.copytree(tmp_path / "cot", tmp_path / "models--org--model" / "snapshots" / "0123")
    shutil.copytree(tmp_path / "cot", tmp_path / "with origin")
    (tmp_path / "with origin" / "config.json").write_text('{"_name_or_path": "org/origin"}')
    path = lora(named.format(tmp_path))
    problems = preflight(tmp_path / base, [path]).problems
    assert [problem.severity for problem in problems] == ([severity] if severity else [])
    for problem in problems:
        assert problem.message.startswith(
            f"dialog was trained on {named.format(tmp_path).rstrip('/')} (adapter_config.json); "
            f"the recipe's base is {tmp_path / base}. Whether the two have the same weights cannot "
            "be compared here"
        )
    if severity == "warning":
        assert problems[0].message.endswith(", and results will be wrong if they differ.")


@pytest.mark.parametrize("named", [None, "", 7, "a\0b", "a\nb", "x" * 5000, "..", "/", "+"])
def test_a_name_that_says_nothing_is_not_compared(named, tmp_path, lora):
    assert preflight(tmp_path / "cot", [lora(named)]).problems == []


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        (None, False),
        (7, False),
        ("main", False),
        (COMMIT, False),
        ("v1", False),
        ("v2", True),
        ("v3", True),
        ("f" * 40, True),
        ("../../etc", False),
    ],
)
def test_another_revision_of_a_base_from_the_hub_is_told(revision, told, tmp_path, lora):
    """The cache's refs say that v1 is this commit and v2 another; of v3 they know nothing."""
    cache = tmp_path / "models--org--model"
    shutil.copytree(tmp_path / "cot", cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "v1").write_text(COMMIT)
    (cache / "refs" / "v2").write_text("e" * 40)
    problems = preflight(cache / "snapshots" / COMMIT, [lora("org/model", revision)]).problems
    assert [problem.message for problem in problems] == [
        f"dialog was trained on revision {revision} of org/model (adapter_config.json); the "
        f"recipe's base is commit {COMMIT[:12]}. Results will be wrong if their weights differ."
    ] * told
    # A folder outside the cache has no commit.
    shutil.copytree(tmp_path / "cot", tmp_path / "model")
    assert preflight(tmp_path / "model", [tmp_path / "dialog"]).problems == []


# ------------------------------------------------------------------------------- training.json


def record(folder, name, identity):
    text = json.dumps({"base": {"name": name, "identity": identity}, "adapter": None})
    (folder / "training.json").write_text(text)


@pytest.mark.parametrize("kind", ["digest", "samples"])
def test_the_digest_of_a_training_decides_whatever_the_names_are(kind, tmp_path, lora):
    base = tmp_path / "base"
    identity = Checkpoint(base).digest if kind == "digest" else sampled_identity(base)
    path = lora("/nowhere/other")
    record(path, "models/base", identity)
    assert preflight(base, [path]).problems == []
    assert preflight(tmp_path / "copy", [path]).problems == []
    (problem,) = preflight(tmp_path / "cot", [path]).problems
    assert (problem.severity, problem.subject) == ("warning", "dialog")
    assert problem.text == (
        f"dialog was trained on models/base with digest {identity[:12]}… (training.json); the "
        f"recipe's base {tmp_path / 'cot'} has other weights. Results will be wrong. Choose the "
        "base that it was trained on."
    )
    # The same name, trained again since: only the digest tells.
    shutil.rmtree(base)
    shutil.copytree(tmp_path / "cot", base)
    (problem,) = preflight(base, [path]).problems
    assert "has other weights" in problem.message


def test_a_full_checkpoint_of_another_base_is_told_too(tmp_path, folders, tuned, write):
    write(tmp_path / "p3", tuned(tuned(folders, 1), 2))
    record(tmp_path / "p3", "models/cot", Checkpoint(tmp_path / "cot").digest)
    assert preflight(tmp_path / "cot", [tmp_path / "p3"]).problems == []
    (problem,) = preflight(tmp_path / "base", [tmp_path / "p3"]).problems
    assert (problem.severity, problem.subject) == ("warning", "p3")
    assert "was trained on models/cot with digest" in problem.message
    assert "Its vector is then the difference of two bases, and what it learnt." in problem.message
    # An average of models has no base.
    models = [
        {"model": str(tmp_path / name), "parameters": {"weight": 1}} for name in ("p3", "cot")
    ]
    text = json.dumps({"merge_method": "linear", "models": models})
    assert prepare(parse_recipe(text)).problems == []


def test_a_name_stays_in_its_line(tmp_path, lora):
    record(path := lora(None), "a\nb" + 900 * "x", "0" * 32)
    (problem,) = preflight(tmp_path / "cot", [path]).problems
    assert problem.message.startswith(r"dialog was trained on 'a\nbxx") and len(problem.text) < 700


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"base": "x"}',
        '{"base": {"name": "x", "identity": ""}}',
        '{"base": {"identity": "abc"}}',
    ],
)
def test_a_record_of_another_program_says_nothing(text, tmp_path, folders):
    (tmp_path / "cot" / "training.json").write_text(text)
    assert preflight(tmp_path / "base", [tmp_path / "cot"]).problems == []


def test_an_adapter_in_slices_is_compared_with_its_own_model(tmp_path, lora):
    path = lora(str(tmp_path / "base"))
    layers = {"layer_range": [0, 3], "parameters": {"weight": 1}}
    for model, told in (("base", 0), ("cot", 1)):
        sources = [{"model": f"{tmp_path / model}+{path}", **layers}]
        text = json.dumps({"merge_method": "linear", "slices": [{"sources": sources}]})
        problems = prepare(parse_recipe(text)).problems
        assert ["their weights differ" in problem.message for problem in problems] == [True] * told
    sources = [{"model": str(Path(tmp_path, "cot")), **layers}]
    text = json.dumps({"merge_method": "linear", "slices": [{"sources": sources}]})
    assert prepare(parse_recipe(text)).problems == []
