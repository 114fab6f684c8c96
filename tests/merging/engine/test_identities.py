"""The digests of a merge's inputs in its recipe, taken while the merge reads them."""

import dataclasses

import pytest
import torch

from merging import Checkpoint, Recipe, export, measure, open_recipe, prepare, read_recipe
from merging.engine.identities import (
    check_identities,
    gather,
    with_identities,
    without_identities,
)
from merging.errors import MismatchError
from merging.inputs.digest import LEAF
from merging.inputs.statistics import Statistics, StatisticsFacts
from merging.inputs.statistics import write as write_statistics
from merging.outputs.vector_folder import save_vector
from merging.recipe.parts import ModelEntry

METHODS = {
    "task_arithmetic": {},  # the compiled loop reads the files
    "ties": {"density": 0.5},  # blocks are read
    "linear": {},  # of weights: the base is not read
    "iso_c": {},  # whole tensors
    "metagpt": {},  # ω from all weights, which are read before the merge
}


def made(dtype, seed):
    """Some leaves and a rest, a norm, a tensor shorter than XXH3's long form, integers."""
    first, generator = (torch.Generator().manual_seed(number) for number in (0, seed))
    shapes = {
        "model.layers.0.mlp.up_proj.weight": (263, LEAF // 512),
        "model.layers.0.input_layernorm.weight": (263,),
        "model.norm.weight": (7,),
    }
    tensors = {
        name: (
            torch.randn(shape, generator=first) + 0.1 * torch.randn(shape, generator=generator)
        ).to(dtype)
        for name, shape in shapes.items()
    }
    return {**tensors, "model.steps": torch.arange(5)}


@pytest.fixture
def dtype():
    return torch.bfloat16


@pytest.fixture
def folders(dtype, tmp_path, write):
    for seed, name in enumerate(("base", "a", "b")):
        write(tmp_path / name, made(dtype, seed), {"model_type": "llama"}, 1 + seed)
    return tmp_path


def recipe_of(folders, method="task_arithmetic", **parameters):
    recipe = Recipe.compose(
        str(folders / "base"),
        {name: str(folders / name) for name in "ab"},
        {"a": 0.5, "b": -0.25},
        method=method,
    )
    return dataclasses.replace(recipe, parameters=parameters)


@pytest.fixture
def read_alone(monkeypatch):
    """The bytes that were read for digests alone, by the name of the folder."""
    amounts, read = {}, Checkpoint._read_bytes

    def watched(self, name, start, target):
        amounts[self.path.name] = amounts.get(self.path.name, 0) + len(target)
        read(self, name, start, target)

    monkeypatch.setattr(Checkpoint, "_read_bytes", watched)
    return amounts


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        *((method, torch.bfloat16) for method in METHODS),
        ("task_arithmetic", torch.float32),
        ("task_arithmetic", torch.float16),
    ],
    ids=str,
)
def test_an_export_takes_them_on_the_way(method, folders, read_alone):
    recipe = recipe_of(folders, method, **METHODS[method])
    out = export(recipe, *open_recipe(recipe), folders / "out", threads=2)
    on_the_way, whole = dict(read_alone), Checkpoint(folders / "base").nbytes
    wanted = {name: Checkpoint(folders / name).digest for name in ("base", "a", "b")}
    assert read_recipe(out / "recipe.yml").inputs == wanted
    # What no merge reads: integers of the vectors, and what is too short for the compiled loop.
    assert max(on_the_way["a"], on_the_way["b"]) < 100
    assert on_the_way.get("base", 0) < 100 or (method == "linear" and on_the_way["base"] <= whole)


def test_the_geometry_takes_them_on_the_way(folders, read_alone):
    base, vectors = open_recipe(recipe_of(folders))
    measure(base, vectors)
    digests = [base.digest, *(vector.digest for vector in vectors.values())]
    assert max(read_alone.values()) < 100
    assert digests == [Checkpoint(folders / name).digest for name in ("base", "a", "b")]


def test_opening_and_the_checks_before_a_merge_read_none(folders, read_alone):
    recipe = recipe_of(folders)
    known = with_identities(recipe, *open_recipe(recipe))
    read_alone.clear()
    prepare(recipe)
    prepare(known, check_inputs=False)
    assert read_alone == {}
    prepare(known)
    assert set(read_alone) == {"base", "a", "b"}


def test_the_header_is_the_same_whether_digests_were_known_or_not(folders):
    recipe = recipe_of(folders)
    known = with_identities(recipe, *open_recipe(recipe))
    files = [
        (export(each, *open_recipe(each), folders / name) / "model.safetensors").read_bytes()
        for name, each in (("x", recipe), ("y", known))
    ]
    assert files[0] == files[1]
    assert without_identities(known, Checkpoint(folders / "base")) == recipe
    assert read_recipe(folders / "x" / "recipe.yml") == known


def test_an_export_of_other_weights_than_the_recipes_leaves_nothing(folders):
    """Found when all was read, as dem merge does, or before."""
    recipe = recipe_of(folders)
    known = with_identities(recipe, *open_recipe(recipe))
    wrong = dataclasses.replace(known, inputs={**known.inputs, "b": "0" * 32})
    told = "^b: the recipe was made for weights with digest 000000000000…, the folder holds "
    opened = prepare(wrong, check_inputs=False)
    with pytest.raises(MismatchError, match=told):
        export(wrong, opened.base, opened.vectors, folders / "out")
    assert not (folders / "out").exists()
    with pytest.raises(MismatchError, match=told):
        prepare(wrong)


def test_what_does_not_fit_is_told_by_its_digest(folders, write):
    """A wrong model may have other shapes; that it is another one says more."""
    recipe = recipe_of(folders)
    known = with_identities(recipe, *open_recipe(recipe))
    (folders / "base").rename(folders / "was")
    write(folders / "base", {"model.norm.weight": torch.ones(11)}, {"model_type": "llama"})
    with pytest.raises(MismatchError, match="has shape 7, the base has 11"):
        prepare(recipe, check_inputs=False)
    with pytest.raises(MismatchError, match="^base: the recipe was made for"):
        prepare(known, check_inputs=False)


def test_digests_of_earlier_versions_are_compared_with_samples(folders, read_alone):
    recipe = recipe_of(folders)
    base, vectors = open_recipe(recipe)
    old = {"base": base.sampled_digest, "a": vectors["a"].sampled_digest}
    opened = prepare(dataclasses.replace(recipe, inputs=old), check_inputs=False)
    assert read_alone == {}
    (told,) = [problem for problem in opened.problems if "earlier version" in problem.message]
    assert (told.severity, told.subject) == ("warning", "recipe")
    assert "dem.inputs: the digest of base, a is of an earlier version" in told.message
    assert "recipe.yml has digests that cover all" in told.fix
    wrong = dataclasses.replace(recipe, inputs={**old, "a": "0" * 64})
    with pytest.raises(MismatchError, match=r"^a: the recipe was made for .* 000000000000…"):
        prepare(wrong, check_inputs=False)
    out = export(dataclasses.replace(recipe, inputs=old), base, vectors, folders / "out")
    assert all(len(digest) == 32 for digest in read_recipe(out / "recipe.yml").inputs.values())


def test_only_what_is_asked_for_is_checked(folders):
    recipe = recipe_of(folders)
    base, vectors = open_recipe(recipe)
    partly = dataclasses.replace(recipe, inputs={"a": vectors["a"].digest})
    check_identities(partly, base, vectors)
    check_identities(partly, base)
    assert "digest" not in vars(base) and "digest" not in vars(vectors["b"])


def test_weights_in_memory_are_not_gathered():
    gather([{"w": torch.ones(3)}])


def test_the_files_of_statistics_are_inputs_with_their_description(folders, read_alone):
    name = "model.layers.0.mlp.up_proj.weight"
    shape = Checkpoint(folders / "base").info(name).shape
    sources = []
    for source in recipe_of(folders).models:
        facts = StatisticsFacts(
            "fisher", Checkpoint(folders / source.name).digest, [], 1, 1, True, 0, 1.0, [], {}
        )
        file = folders / f"{source.name}.fisher"
        write_statistics(file, facts, {name: torch.rand(shape)})
        sources.append(
            ModelEntry(source.path, source.name, {"weight": 1.0, "statistics": str(file)})
        )
    recipe = Recipe(str(folders / "base"), tuple(sources), "fisher")
    read_alone.clear()
    base, vectors = open_recipe(recipe)
    out = export(recipe, base, vectors, folders / "out")
    inputs = read_recipe(out / "recipe.yml").inputs
    assert inputs["statistics of a"] == Statistics(folders / "a.fisher").digest
    assert inputs == with_identities(recipe, base, vectors).inputs
    # The same numbers with another norm are other statistics: the norm scales them.
    stored = Statistics(folders / "a.fisher")
    write_statistics(
        folders / "other.fisher",
        stored.facts._replace(norm=2.0),
        {name: stored.stored[name]},
    )
    other = Statistics(folders / "other.fisher")
    assert other.stored.digest == stored.stored.digest and other.digest != stored.digest


def test_a_saved_vector_names_what_it_was_made_from(folders, read_alone):
    _, vectors = open_recipe(recipe_of(folders))
    save_vector(vectors["a"], folders / "saved")
    assert max(read_alone.values()) < 100
    text = (folders / "saved" / "vector.json").read_text()
    assert all(Checkpoint(folders / name).digest in text for name in ("base", "a"))
