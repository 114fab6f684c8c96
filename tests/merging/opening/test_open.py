"""From folders and recipes to base and vectors."""

import dataclasses

import pytest

from merging import (
    Checkpoint,
    DistributionVector,
    LoraVector,
    Recipe,
    open_recipe,
    open_vector,
    with_identities,
)
from merging.errors import CheckpointError, MismatchError, RecipeError
from merging.recipe import parse_recipe, recipe_yaml

QUERY = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def folders(tmp_path, llama, tuned, write, adapter):
    base = llama()
    write(tmp_path / "base", base, {"model_type": "llama"})
    write(tmp_path / "cot", tuned(base, 1), {"model_type": "llama"})
    adapter(tmp_path / "p3", base, [QUERY])
    return tmp_path


def test_a_folder_is_opened_as_what_it_holds(folders):
    base = Checkpoint(folders / "base")
    whole, lora = open_vector(folders / "cot", base), open_vector(folders / "p3", base)
    assert isinstance(whole, DistributionVector) and whole.name == "cot" and len(whole) == len(base)
    assert isinstance(lora, LoraVector) and lora.name == "p3" and list(lora) == [f"{QUERY}.weight"]
    assert open_vector(folders / "cot", base, "other").name == "other"


def test_a_folder_without_weights_is_refused(folders):
    (folders / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty"):
        open_vector(folders / "empty", Checkpoint(folders / "base"))


def test_a_recipe_opens_all_that_it_names(folders):
    recipe = Recipe.compose("base", {"cot": "cot", "p3": "p3"}, {"cot": 0.5})
    base, vectors = open_recipe(recipe, folders.joinpath)
    assert base.path == folders / "base" and list(vectors) == ["cot", "p3"]


def test_a_recipe_without_a_base_is_opened_on_its_first_model(folders):
    text = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}, {model: cot, parameters: {weight: 1}}]"
    base, vectors = open_recipe(parse_recipe(text), folders.joinpath)
    assert base.path == folders / "base" and list(vectors) == ["base", "cot"]


@pytest.mark.parametrize(("name", "subject"), [("base", "base"), ("cot", "cot")])
def test_weights_other_than_the_recipes_are_refused(folders, name, subject):
    recipe = dataclasses.replace(
        Recipe.compose("base", {"cot": "cot"}), inputs={name: "0123456789abcdef"}
    )
    with pytest.raises(
        MismatchError,
        match=rf"^{subject}: the recipe was made for .* 0123456789ab….*remove dem.inputs",
    ):
        open_recipe(recipe, folders.joinpath)


def test_the_digests_of_the_same_weights_are_accepted(folders):
    recipe = Recipe.compose("base", {"cot": "cot"})
    base, vectors = open_recipe(recipe, folders.joinpath)
    digests = {"base": base.digest, "cot": vectors["cot"].digest}
    open_recipe(dataclasses.replace(recipe, inputs=digests), folders.joinpath)


RECIPE = """
merge_method: task_arithmetic
base_model: base
models:
  - model: {base}+p3
    parameters: {{weight: 0.5}}
"""


def test_an_adapter_named_with_a_plus_is_read_on_the_base(folders):
    _, vectors = open_recipe(parse_recipe(RECIPE.format(base="base")), folders.joinpath)
    (vector,) = vectors.values()
    assert isinstance(vector, LoraVector)


def test_an_adapter_on_another_model_is_refused(folders):
    with pytest.raises(
        RecipeError, match=r"cot\+p3: an adapter can only be read on the recipe's base \(base\)"
    ):
        open_recipe(parse_recipe(RECIPE.format(base="cot")), folders.joinpath)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("base", "revision", "asked"),
    [
        ("org/base", COMMIT, f"org/base@{COMMIT}"),
        ("org/base@v1", COMMIT, "org/base@v1"),
        ("org/base", "", "org/base"),
        ("base", COMMIT, "base"),
    ],
)
def test_a_base_from_the_hub_is_read_at_the_commit_of_the_recipe(folders, base, revision, asked):
    """Without asking the hub: `locate` is what would."""
    from dataclasses import replace

    seen = []

    def locate(reference):
        seen.append(reference)
        return folders / ("base" if "base" in reference else "cot")

    recipe = replace(Recipe.compose(base, {"cot": "cot"}, {"cot": 1.0}), revision=revision)
    assert parse_recipe(recipe_yaml(recipe)) == recipe
    open_recipe(recipe, locate)
    assert seen[0] == asked


def test_a_model_that_is_called_base_is_not_taken_for_the_base(folders, tuned, llama, write):
    """Its digest stands beside the base's, so that an export's own recipe opens again, and each is told of on its own."""
    write(folders / "other" / "base", tuned(llama(), 5), {"model_type": "llama"})
    recipe = Recipe.compose("base", {"base": "other/base"}, {"base": 0.5})
    known = with_identities(recipe, *open_recipe(recipe, folders.joinpath))
    assert known.inputs["base"] == Checkpoint(folders / "base").digest
    assert known.inputs["model base"] == Checkpoint(folders / "other" / "base").digest
    open_recipe(known, folders.joinpath)
    swapped = Recipe.compose("base", {"base": "cot"}, {"base": 0.5})
    with pytest.raises(MismatchError, match="^model base: the recipe was made for"):
        open_recipe(dataclasses.replace(swapped, inputs=known.inputs), folders.joinpath)
