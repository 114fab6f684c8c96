"""A model's name in a recipe is read as mergekit reads it, and a folder with a + is that folder."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from merging import ModelEntry, Recipe, RecipeError, export, open_recipe
from merging.recipe import parse_recipe, read_recipe, recipe_yaml
from merging.recipe.parts import Slice, SliceSource
from merging.recipe.reference import (
    Reference,
    is_folder_from,
    read_base,
    read_reference,
    write_reference,
)


def read(raw, *folders):
    return read_reference(raw, "models[0].model", lambda path: path in folders)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("models/cot", ("models/cot", None)),
        ("org/cot@v1.0", ("org/cot@v1.0", None)),
        ("base+adapters/p3", ("base", "adapters/p3")),
        ("org/base@v1+org/lora@main", ("org/base@v1", "org/lora@main")),
        ({"model": "cot"}, ("cot", None)),
        ({"model": "a+b"}, ("a+b", None)),  # mergekit splits a whole reference, never a path
        ({"model": "base", "lora": "a+b"}, ("base", "a+b")),
        ({"model": "cot", "lora": None, "override_architecture": None}, ("cot", None)),
        ({"model": {"path": "a+b"}}, ("a+b", None)),
        ({"model": {"path": "org/cot", "revision": "v1.0"}}, ("org/cot@v1.0", None)),
        ({"model": {"path": "org/cot", "revision": None}}, ("org/cot", None)),
        (
            {"model": {"path": "base"}, "lora": {"path": "org/lora", "revision": "main"}},
            ("base", "org/lora@main"),
        ),
    ],
)
def test_text_and_mapping_are_read_as_mergekit_reads_them(raw, expected):
    assert read(raw) == expected


@pytest.mark.parametrize(
    ("text", "folders", "expected"),
    [
        ("a+b", ["a+b"], ("a+b", None)),
        ("a+b", ["a+b", "a"], ("a+b", None)),  # without b there is nothing to confuse it with
        ("c++", ["c++"], ("c++", None)),
        ("+", ["+"], ("+", None)),
        ("x/a+b/y", ["x/a+b/y"], ("x/a+b/y", None)),
        ("c++/base+c++/lora", ["c++/base", "c++/lora"], ("c++/base", "c++/lora")),
        ("base+l+1", ["base", "l+1"], ("base", "l+1")),
    ],
)
def test_the_folders_that_exist_decide_what_a_plus_means(text, folders, expected):
    assert read(text, *folders) == expected


@pytest.mark.parametrize(
    ("raw", "folders", "message"),
    [
        (None, [], r"models\[0\].model is missing, expected the folder of a checkpoint\."),
        (7, [], r"models\[0\].model is 7, expected the folder of a checkpoint\."),
        ("a\0b", [], r"model is 'a\\x00b', expected the folder"),
        (
            "a+b",
            ["a+b", "a", "b"],
            "is 'a[+]b', which is the name of a folder, and also that of the adapter 'b' on 'a'. "
            r"Write it as \{model: \{path: 'a[+]b'\}\} for the folder, or as \{model: \{path: 'a'\}, lora: "
            r"\{path: 'b'\}\} for the adapter\.",
        ),
        ("a+b+c", [], "more than one [+] leaves open where the adapter begins. Write"),
        ("a+b+c", ["a", "b+c", "a+b", "c"], "more than one [+] leaves open"),
        ("a+", ["a"], r"'a\+': a \+ stands between a model and an adapter, and one of the two"),
        ("+b", [], r"one of the two is missing. A folder of this name is written as \{model:"),
        ({"modle": "a"}, [], "unknown key 'modle'; did you mean 'model'"),
        ({"path": "a"}, [], r"unknown key 'path'; write \{model: \{path: …\}\}"),
        ({"lora": "a"}, [], r"models\[0\].model.model is missing, expected a folder or a hub id"),
        ({"model": 3}, [], "model.model is 3, expected a folder or a hub id"),
        (
            {"model": {"path": "a", "revison": "x"}},
            [],
            "unknown key 'revison'; did you mean 'revision'",
        ),
        ({"model": {"revision": "x"}}, [], "model.model.path is missing"),
        ({"model": {"path": "a", "revision": 3}}, [], "model.model.revision is 3, expected text"),
        (
            {"model": {"path": "a", "revision": "x"}},
            ["a"],
            "revision is 'x', and only models of the hub have revisions; 'a' is a folder here",
        ),
        ({"model": {"path": "o/a", "revision": "x"}}, ["o/a@x"], "only models of the hub"),
        ({"model": {"path": "o/a@y", "revision": "x"}}, [], "has a revision already, and rev"),
        (
            {"model": "a", "override_architecture": "MistralForCausalLM"},
            [],
            "override_architecture is not read: tensors are matched by the names in the files",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_key(raw, folders, message):
    with pytest.raises(RecipeError, match=message):
        read(raw, *folders)


def test_a_base_has_no_adapter():
    def nowhere(path):
        return False

    assert read_base(None, "base_model", nowhere) is None
    assert read_base({"model": {"path": "a+b"}}, "base_model", nowhere) == "a+b"
    assert read_base("a+b", "base_model", lambda path: path == "a+b") == "a+b"
    wrong = r"base_model is a\+b, the adapter 'b' on 'a', and the base must be a full model"
    with pytest.raises(RecipeError, match=wrong + r".* A folder that is called 'a\+b' is written"):
        read_base("a+b", "base_model", nowhere)
    with pytest.raises(RecipeError, match=wrong + ".* name the result.$"):
        read_base({"model": "a", "lora": "b"}, "base_model", nowhere)


def test_a_folder_beside_the_recipe_counts_too(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "a+b").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    text = "{merge_method: linear, models: [{model: a+b, parameters: {weight: 1}}]}"
    (tmp_path / "recipes" / "r.yml").write_text(text)
    monkeypatch.chdir(tmp_path / "work")
    (source,) = read_recipe("../recipes/r.yml").models
    assert (source.path, source.lora, source.name) == ("../recipes/a+b", None, "a+b")
    # The same text without that folder is mergekit's adapter b on a.
    assert [(model.path, model.lora) for model in parse_recipe(text).models] == [("a", "b")]
    assert not is_folder_from(None)("x" * 5000)


BASE = "{model: b, parameters: {weight: 1}}"


@pytest.mark.parametrize(
    "tokenizer",
    [
        "tokenizer_source: {model: {path: ./base}}",
        "tokenizer_source: base/",
        "tokenizer: {source: {model: base}, tokens: {}, pad_to_multiple_of: null}",
        "tokenizer: null",
    ],
)
def test_the_bases_tokenizer_under_any_of_its_names_is_what_is_used(tokenizer):
    text = f"{{merge_method: task_arithmetic, base_model: base, models: [{BASE}], {tokenizer}}}"
    assert parse_recipe(text).base == "base"


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ("tokenizer_source: union", "tokenizer_source is 'union'; only the base's"),
        ("tokenizer_source: {model: b}", r"tokenizer_source is \{'model': 'b'\}; only the base's"),
        ("tokenizer_source: base+x", "tokenizer_source is 'base[+]x'; only the base's"),
        ("tokenizer: {}", "'tokenizer' is not read: no tokenizer is built from several"),
        (
            "tokenizer: {source: base, pad_to_multiple_of: 64}",
            "'tokenizer' is not read: pad_to_multiple_of is 64: no tokenizer",
        ),
    ],
)
def test_any_other_tokenizer_is_refused(tokenizer, message):
    text = f"{{merge_method: task_arithmetic, base_model: base, models: [{BASE}], {tokenizer}}}"
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text)


# ---------------------------------------------------------------------------------------- the law

names = st.text("+@ab-~/é漢:'\"#{} %", min_size=1, max_size=6).filter(
    lambda name: name.strip("/.") and not name.startswith("/")
)
entries = st.lists(st.tuples(names, st.none() | names), min_size=1, max_size=3)


@settings(suppress_health_check=list(HealthCheck))
@given(names, entries, st.lists(names, max_size=4), st.booleans())
def test_a_written_reference_is_read_back_whatever_folders_there_are(
    tmp_path_factory, base, models, folders, restacked
):
    """Among the folders are those that a text with a + could be confused with."""
    place, before = tmp_path_factory.mktemp("names"), Path.cwd()
    os.chdir(place)
    try:
        confusing = [part for path, lora in models for part in (f"{path}+{lora}", path, lora or "")]
        for folder in [base, *folders, *confusing]:
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
        references = dict.fromkeys(Reference(*model) for model in models)
        weight = {} if restacked else {"weight": 1.0}
        recipe = Recipe(
            base,
            tuple(
                ModelEntry(path, f"m{number}", weight, lora)
                for number, (path, lora) in enumerate(references)
            ),
            "linear" if restacked else "task_arithmetic",
            slices=tuple(
                Slice((SliceSource(f"m{number}", 0, 1, {"weight": 1.0}),))
                for number in range(len(references))
            )
            if restacked
            else (),
        )
        again = parse_recipe(recipe_yaml(recipe))
        assert again == recipe
        assert recipe_yaml(again) == recipe_yaml(recipe)
    finally:
        os.chdir(before)


def test_a_plain_reference_stays_the_text_that_people_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write_reference(Reference("base", "lora")) == "base+lora"
    assert write_reference(Reference("org/cot@v1")) == "org/cot@v1"
    (tmp_path / "base+lora").mkdir()
    (tmp_path / "x@y").mkdir()
    both = {"model": {"path": "base"}, "lora": {"path": "lora"}}
    assert write_reference(Reference("base", "lora")) == both
    # mergekit would take y for a revision.
    assert write_reference(Reference("x@y")) == {"model": {"path": "x@y"}}


ODD = ["a+b", "x@y", "with space", "-dash", "c:d", "~", "'\"", "é漢"]


def test_models_with_odd_names_are_merged_and_the_exported_recipe_makes_it_again(
    tmp_path, monkeypatch, llama, tuned, write, bits
):
    monkeypatch.chdir(tmp_path)
    base = llama(layers=1)
    models = {name: tuned(base, number) for number, name in enumerate(ODD)}
    write(Path("base+model"), base)
    for name, weights in models.items():
        write(Path(name), weights)
    listed = [{"model": name, "parameters": {"weight": 0.25}} for name in ODD]
    document = {"merge_method": "task_arithmetic", "base_model": "base+model", "models": listed}
    Path("r.yml").write_text(yaml.safe_dump(document))
    recipe = read_recipe("r.yml")
    assert [source.name for source in recipe.models] == ODD
    first = load_file(export(recipe, *open_recipe(recipe), "out") / "model.safetensors")
    for name, value in base.items():
        # In float64, from Θ + Σ ω (Θᵢ − Θ).
        total = sum(0.25 * (models[odd][name].double() - value.double()) for odd in ODD)
        assert torch.allclose(first[name].double(), value.double() + total, atol=1e-6)
    written = read_recipe("out/recipe.yml")
    assert written.models == recipe.models
    again = load_file(export(written, *open_recipe(written), "again") / "model.safetensors")
    assert all(bits(again[name], first[name]) for name in base)


@pytest.mark.oracle
def test_mergekit_reads_the_folders_that_we_write(
    tmp_path, monkeypatch, llama, write, run_mergekit
):
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 7, "intermediate_size": 11, "num_hidden_layers": 1, "vocab_size": 31}
    sizes |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **sizes}
    weights = [llama(number, layers=1) for number in range(3)]
    for name, tensors in zip(["a+b", "x@y", "with space"], weights, strict=True):
        write(tmp_path / name, tensors, config)
    recipe = Recipe.compose(
        "a+b", {"one": "x@y", "two": "with space"}, {"one": 0.5, "two": 0.25}, dtype="float32"
    )
    (tmp_path / "r.yml").write_text(recipe_yaml(recipe))
    run_mergekit([(str(tmp_path / "r.yml"), str(tmp_path / "theirs"))], tmp_path)
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    export(recipe, *open_recipe(recipe), tmp_path / "ours")
    for name, value in load_file(tmp_path / "ours" / "model.safetensors").items():
        assert torch.allclose(value, theirs[name], atol=1e-6)
