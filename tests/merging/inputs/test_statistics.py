"""Files of statistics: written, read back, named by recipes, checked before any weight is read."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from merging import (
    Checkpoint,
    DistributionVector,
    MismatchError,
    ModelEntry,
    Recipe,
    RecipeError,
    merge,
    open_recipe,
)
from merging.engine.identities import with_identities
from merging.engine.shared_tensors import shared_tensors
from merging.engine.tasks import tasks
from merging.errors import CheckpointError, ExportError
from merging.inputs.statistics import KEY, Statistics, StatisticsFacts, check_target
from merging.inputs.statistics import write as save
from merging.live.live_model import LiveModel
from merging.recipe import parse_recipe, read_recipe, recipe_yaml
from merging.recipe.formula import formula

OMEGAS = {"cot": 0.75, "p3": 1.5}
LINEAR = ("proj.weight", "lm_head.weight")


def facts(kind, model, **more):
    given = {
        "datasets": ["cot"],
        "examples": 5,
        "tokens": 23,
        "sampled": False,
        "seed": 0,
        "norm": 1.0,
    }
    return StatisticsFacts(
        **(
            {"kind": kind, "model": model, "inputs_first": [], "versions": {"dem": "0"}}
            | given
            | more
        )
    )


def information(tensors, seed):
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=random) + 0.01 for name, value in tensors.items()
    }


def moments(tensors, seed):
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in tensors.items():
        if name.endswith(LINEAR):
            x = torch.randn(3 * value.shape[1], value.shape[1], generator=random)
            found[name] = x.T @ x / len(x)
    return found


@pytest.fixture
def world(tmp_path, llama, tuned, write):
    """tmp_path/{base,cot,p3}, and a file of each kind for both, as collected."""
    base = llama()
    made = {"base": base}
    write(tmp_path / "base", base, {"model_type": "llama"})
    for seed, name in enumerate(OMEGAS):
        made[name] = tuned(base, seed)
        digest = Checkpoint(write(tmp_path / name, made[name], {"model_type": "llama"})).digest
        save(
            tmp_path / f"{name}.fisher",
            facts("fisher", digest, norm=2.0 + seed),
            information(base, seed),
        )
        save(tmp_path / f"{name}.gram", facts("gram", digest), moments(base, seed))
    return tmp_path, made


def recipe_of(folder, kind, method=None, **more):
    method = method or {"fisher": "fisher", "gram": "regmean"}[kind]
    models = tuple(
        ModelEntry(
            str(folder / name),
            name,
            {"weight": omega, "statistics": str(folder / f"{name}.{kind}")},
        )
        for name, omega in OMEGAS.items()
    )
    return Recipe(base=str(folder / "base"), models=models, method=method, **more)


def opened(folder):
    base = Checkpoint(folder / "base")
    return base, {
        name: DistributionVector(name, base, Checkpoint(folder / name)) for name in OMEGAS
    }


def rewrite(file, change=lambda found, tensors: None, **metadata):
    """A file with its facts or tensors changed."""
    with safe_open(file, "pt") as stored:
        found = json.loads(stored.metadata()[KEY])
    tensors = load_file(file)
    change(found, tensors)
    save_file(tensors, file, metadata or {KEY: json.dumps(found)})


def test_what_is_written_is_read_back(tmp_path):
    square = torch.arange(15.0).view(3, 5)
    tensors = {"a": square.T, "b": square[:, 1:3], "c": torch.tensor([1.0], dtype=torch.float64)}
    wanted = facts("fisher", "abc", inputs_first=["a"])
    save(tmp_path / "x", wanted, tensors)
    read = Statistics(tmp_path / "x")
    assert read.facts == wanted and set(read.stored) == set(tensors) and "fisher" in repr(read)
    for name, value in tensors.items():
        assert torch.equal(read.stored[name], value.float())
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_block_is_read_in_its_shape_and_dtype(world):
    folder, made = world
    read = Statistics(folder / "cot.fisher")
    name = "model.layers.0.mlp.down_proj.weight"
    wanted = information(made["base"], 0)[name]
    found = read.at(name, (5, 18), (-1,), torch.float64)
    assert torch.equal(found.values, wanted.flatten()[5:18].double()) and found.norm == 2.0
    assert read.at("nothing", (0, 1), (1,), torch.float32) is None


def test_two_are_equal_when_they_are_the_same_unchanged_file(world):
    folder, _ = world
    one = Statistics(folder / "cot.fisher")
    assert one == Statistics(folder / "cot.fisher") and hash(one) == hash(
        Statistics(folder / "cot.fisher")
    )
    assert one != Statistics(folder / "p3.fisher") and one != "cot.fisher"
    rewrite(folder / "cot.fisher", lambda found, tensors: tensors["model.norm.weight"].mul_(2))
    assert one != Statistics(folder / "cot.fisher")


@pytest.mark.parametrize("size", [7, 2**18])
def test_a_fisher_merge_is_the_formula(world, pieces, size):
    pieces(size)
    folder, made = world
    merged = dict(merge(recipe_of(folder, "fisher", parameters={"floor": 0.1}), *opened(folder)))
    assert list(merged) == list(Checkpoint(folder / "base"))
    for name, value in merged.items():
        shares = [
            omega * information(made["base"], seed)[name].double().clamp(min=0.1) / (2.0 + seed)
            for seed, omega in enumerate(OMEGAS.values())
        ]
        wanted = sum(
            share * made[vector][name].double()
            for share, vector in zip(shares, OMEGAS, strict=True)
        )
        torch.testing.assert_close(value.double(), wanted / sum(shares), rtol=1e-6, atol=1e-7)


def test_a_regmean_merge_is_the_formula_for_linear_layers_and_the_average_for_the_rest(world):
    folder, made = world
    merged = dict(
        merge(recipe_of(folder, "gram", parameters={"off_diagonal": 1.0}), *opened(folder))
    )
    for name, value in merged.items():
        tuned = [made[vector][name].double() for vector in OMEGAS]
        wanted = sum(omega * one for omega, one in zip(OMEGAS.values(), tuned, strict=True)) / sum(
            OMEGAS.values()
        )
        if name.endswith(LINEAR):
            grams = [
                omega * moments(made["base"], seed)[name].double()
                for seed, omega in enumerate(OMEGAS.values())
            ]
            right = sum(gram @ one.T for gram, one in zip(grams, tuned, strict=True))
            away = (value.double() - wanted).abs().max()
            wanted = torch.linalg.solve(sum(grams), right).T
            assert away > 1e-4  # it is not the average
        torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-7)


def test_inputs_first_turns_the_layer_round(world):
    """A square weight, where no shape could tell."""
    folder, made = world
    name = "model.layers.1.self_attn.q_proj.weight"
    straight = dict(merge(recipe_of(folder, "gram"), *opened(folder)))[name]
    for vector in OMEGAS:
        rewrite(
            folder / f"{vector}.gram", lambda found, tensors: found["inputs_first"].append(name)
        )
    turned = dict(merge(recipe_of(folder, "gram"), *opened(folder)))[name]
    x = [
        omega * moments(made["base"], seed)[name].double()
        for seed, omega in enumerate(OMEGAS.values())
    ]
    x = [0.9 * gram + 0.1 * torch.diag(gram.diagonal()) for gram in x]
    right = sum(gram @ made[vector][name].double() for gram, vector in zip(x, OMEGAS, strict=True))
    torch.testing.assert_close(
        turned.double(), torch.linalg.solve(sum(x), right), rtol=1e-6, atol=1e-7
    )
    assert not torch.allclose(turned, straight)


def test_a_model_at_omega_0_takes_no_part(world):
    folder, made = world
    recipe = recipe_of(folder, "fisher").with_omegas({"p3": 0.0})
    found = tasks(recipe, *opened(folder))
    assert all(len(task.statistics) == 1 for task in found)
    for name, value in merge(recipe, *opened(folder)):
        torch.testing.assert_close(value, made["cot"][name])


def test_the_live_model_is_the_merge_and_notices_a_changed_file(world, module_of, views_of, bits):
    folder, made = world
    base, vectors = opened(folder)
    module = module_of(made["base"])
    live = LiveModel(module, base, vectors, views_of(made["base"]))
    recipe = recipe_of(folder, "fisher")
    assert live.apply(recipe) == len(base) and live.apply(recipe) == 0
    rewrite(folder / "p3.fisher", lambda found, tensors: tensors["model.norm.weight"].mul_(3))
    assert live.apply(recipe) == len(base)
    for name, value in merge(recipe, base, vectors):
        assert bits(module.get_parameter(name), value)


def test_a_recipe_keeps_the_path_through_its_file(world, monkeypatch):
    folder, _ = world
    recipe = recipe_of(folder, "fisher")
    assert parse_recipe(recipe_yaml(recipe)) == recipe
    assert "statistics" not in formula(recipe) and formula(recipe) == "fisher(0.75·Θcot, 1.50·Θp3)"
    models = "".join(
        f"  - model: {name}\n    parameters: {{weight: 1.0, statistics: {name}.fisher}}\n"
        for name in OMEGAS
    )
    (folder / "r.yml").write_text(f"merge_method: fisher\nmodels:\n{models}dem: {{base: base}}\n")
    read = read_recipe(folder / "r.yml")
    assert [source.parameters["statistics"] for source in read.models] == [
        str(folder / f"{name}.fisher") for name in OMEGAS
    ]
    monkeypatch.chdir(folder)
    assert read_recipe(folder / "r.yml").models[0].parameters["statistics"] == "cot.fisher"


def test_one_file_for_all_models_may_stand_under_the_recipes_parameters(world):
    """Which is right for one model only, and said to be wrong for the others."""
    folder, _ = world
    recipe = recipe_of(folder, "fisher")
    bare = tuple(replace(source, parameters={"weight": 1.0}) for source in recipe.models)
    shared = {"statistics": str(folder / "cot.fisher")}
    one = replace(recipe, models=bare[:1], parameters=shared)
    assert len(tasks(one, *opened(folder))) == len(Checkpoint(folder / "base"))
    with pytest.raises(
        MismatchError, match="p3: .*cot.fisher was collected on weights with digest"
    ):
        tasks(replace(recipe, models=bare, parameters=shared), *opened(folder))


def test_a_recipe_knows_its_files_of_statistics_again(world):
    """As it knows weights: another file in the place of the one that it was made for is refused when it is opened."""
    folder, _ = world
    wanted = recipe_of(folder, "gram")
    final = with_identities(wanted, *open_recipe(wanted))
    assert set(final.inputs) == {"base", "cot", "p3", "statistics of cot", "statistics of p3"}
    assert (
        parse_recipe(recipe_yaml(final)) == final
        and with_identities(final, *open_recipe(final)) == final
    )
    rewrite(folder / "p3.gram", lambda found, tensors: tensors["lm_head.weight"].mul_(2))
    other = with_identities(wanted, *open_recipe(wanted))
    assert {key for key, value in other.inputs.items() if value != final.inputs[key]} == {
        "statistics of p3"
    }
    assert other.digest != final.digest
    told = rf"^statistics of p3: the recipe was made for statistics with digest {final.inputs['statistics of p3'][:12]}…, "
    with pytest.raises(
        MismatchError, match=told + "the file holds .*Give the file that .* or remove dem.inputs"
    ):
        open_recipe(final)
    bare = {key: value for key, value in final.inputs.items() if not key.startswith("statistics")}
    open_recipe(replace(final, inputs=bare))


@pytest.mark.parametrize("given", [["a", "b"], 3, {"value": "a"}, "", "a\nb", None])
def test_what_is_no_path_is_refused(world, given):
    folder, _ = world
    source = ModelEntry(str(folder / "cot"), "cot", {"weight": 1.0, "statistics": given})
    with pytest.raises(
        RecipeError, match="models: cot: statistics is .*, expected the path of one file"
    ):
        Recipe(base=None, models=(source,), method="fisher")


def test_a_recipe_without_statistics_is_refused():
    source = ModelEntry("cot", "cot", {"weight": 1.0})
    wanted = "models: cot: parameters.statistics is missing; it is the file that `dem statistics --kind gram` wrote"
    with pytest.raises(RecipeError, match=wanted):
        Recipe(base=None, models=(source,), method="regmean")


def test_slices_are_refused():
    text = """
merge_method: fisher
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: 1, statistics: x}}
"""
    with pytest.raises(RecipeError, match="fisher needs statistics, which are of whole models"):
        parse_recipe(text)


def test_a_negative_omega_is_refused(world):
    folder, _ = world
    with pytest.raises(
        RecipeError, match=r"fisher at .*: ω is -1, but the shares of an average cannot be negative"
    ):
        tasks(recipe_of(folder, "fisher").with_omegas({"cot": -1.0}), *opened(folder))


def no_head(found, tensors):
    del tensors["lm_head.weight"]


def other_name(found, tensors):
    tensors["model.extra.weight"] = torch.ones(3)


def other_shape(found, tensors):
    tensors["model.norm.weight"] = torch.ones(3)


def halves(found, tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].half()


def of_an_embedding(found, tensors):
    tensors["model.norm.weight"] = torch.eye(7)


def turned(found, tensors):
    found["inputs_first"] = ["lm_head.weight"]


def turned_square(found, tensors):
    found["inputs_first"] = ["model.layers.0.self_attn.q_proj.weight"]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "fisher",
            no_head,
            "cot and p3 have statistics of different tensors: lm_head.weight only in one",
        ),
        ("fisher", other_name, "has statistics of 'model.extra.weight', which the base lacks"),
        (
            "fisher",
            other_shape,
            r"fisher statistics of 'model.norm.weight' have shape \[3\], .* shape \[7\] needs \[7\]",
        ),
        ("fisher", halves, "'model.norm.weight' is stored as torch.float16, expected float32"),
        ("gram", no_head, "different tensors: lm_head.weight only in one"),
        (
            "gram",
            of_an_embedding,
            r"have shape \[7, 7\], but the base's tensor of shape \[7\] needs \[None, None\]",
        ),
        (
            "gram",
            turned,
            r"'lm_head.weight' have shape \[7, 7\], .* shape \[31, 7\] needs \[31, 31\]",
        ),
        (
            "gram",
            turned_square,
            "disagree about which axis of model.layers.0.self_attn.q_proj.weight",
        ),
        (
            "gram",
            lambda found, tensors: found.update(model="0" * 64),
            "p3: .* on weights with digest 000000000000…, but",
        ),
    ],
)
def test_statistics_that_do_not_fit_are_refused_before_a_weight_is_read(
    world, monkeypatch, kind, change, message
):
    folder, _ = world
    rewrite(folder / f"p3.{kind}", change)
    base, vectors = opened(folder)
    digests = [vector.digest for vector in vectors.values()]  # which read samples
    assert all(digests)
    shared_tensors(base, vectors.values())  # equal tensors are compared once for each base
    monkeypatch.setattr(Checkpoint, "block", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(MismatchError, match=message):
        tasks(recipe_of(folder, kind), base, vectors)


def test_statistics_of_another_kind_are_refused(world):
    folder, _ = world
    wanted = "cot: .*cot.gram holds statistics of kind 'gram', fisher needs 'fisher'.*dem statistics .*cot OUT --data"
    with pytest.raises(RecipeError, match=wanted):
        tasks(recipe_of(folder, "gram", "fisher"), *opened(folder))


def test_vectors_without_a_digest_cannot_be_compared(world):
    folder, made = world
    base, _ = opened(folder)
    vectors = {name: DistributionVector(name, made["base"], made[name]) for name in OMEGAS}
    assert len(tasks(recipe_of(folder, "fisher"), base, vectors)) == len(base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "pt"}, "holds no statistics: its metadata has no dem_statistics"),
        ({KEY: "{"}, "dem_statistics is not valid JSON"),
        ({KEY: "[]"}, "dem_statistics is not what `dem statistics` writes: expected kind, model"),
        ({KEY: "{}"}, "is not what `dem statistics` writes"),
        ("format", "format is 2, this version reads 1. Update this program to use the file"),
        ("norm", "dem_statistics: norm is 'x', expected float"),
        ("datasets", "dem_statistics: datasets is 'x', expected list"),
    ],
)
def test_a_file_that_is_none_is_refused(world, change, message):
    folder, _ = world
    file = folder / "cot.fisher"
    if isinstance(change, dict):
        rewrite(file, **change)
    else:
        rewrite(
            file, lambda found, tensors: found.update({change: 2 if change == "format" else "x"})
        )
    with pytest.raises(CheckpointError, match=message):
        Statistics(file)


@pytest.mark.parametrize("given", ["nowhere.safetensors", "org/name@main", "x" * 5000])
def test_a_file_that_is_not_there_is_refused(given):
    with pytest.raises(
        CheckpointError,
        match="is not a file. Give the safetensors file that `dem statistics` wrote",
    ):
        Statistics(given)


def test_nothing_is_written_over_a_file_or_into_nowhere(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ExportError, match="x exists. Give the name of a new file"):
        save(tmp_path / "x", facts("fisher", "a"), {"a": torch.ones(3)})
    with pytest.raises(ExportError, match="nowhere is not a folder that can be written"):
        check_target(tmp_path / "nowhere" / "y")
    with pytest.raises(ExportError, match=r"GB free, the statistics need 1000000000.00 GB"):
        check_target(tmp_path / "y", 10**18)
    # made by somebody else after it was looked for
    monkeypatch.setattr("merging.inputs.statistics.check_target", lambda *_: None)
    with pytest.raises(
        ExportError, match="x could not be written: File exists. Nothing was left behind"
    ):
        save(tmp_path / "x", facts("fisher", "a"), {"a": torch.ones(3)})
    assert [file.name for file in tmp_path.iterdir()] == ["x"] and (
        tmp_path / "x"
    ).read_text() == "mine"
