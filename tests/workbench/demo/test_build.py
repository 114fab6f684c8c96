"""The demo that ships: what its results claim, that they are what was measured, and that it holds nothing it should not."""

import json
from pathlib import Path

import pytest
import torch

from corpus import read_datasets
from corpus.demo import FAMILIES, datasets, write
from merging import open_recipe
from merging.inputs.sampled_digest import is_sampled
from merging.recipe import parse_recipe
from merging.recipe.formula import formula
from merging.recipe.yaml_file import relative_to
from workbench.demo.build import DEMO, EXPERTS, ROOT
from workbench.demo.results_table import table

NAMES = [family.name for family in FAMILIES]


@pytest.fixture(scope="module")
def results():
    return json.loads((DEMO / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def rows(results):
    return {row["label"]: row["datasets"] for row in results["rows"]}


def mean(row):
    return sum(cell["accuracy"] for cell in row.values()) / len(row)


def test_the_table_is_what_the_numbers_print(results):
    assert (DEMO / "RESULTS.md").read_text("utf-8") == table(results)
    assert results["split"] == "test"
    assert all(cell["n"] == 300 for row in results["rows"] for cell in row["datasets"].values())


@pytest.mark.parametrize("name", NAMES)
def test_each_expert_beats_the_base_on_its_own_dataset_by_ten_points(rows, name):
    assert rows[f"expert {name}"][name]["accuracy"] >= rows["base"][name]["accuracy"] + 0.10


def test_the_tuned_composition_beats_the_base(rows):
    assert mean(rows["DEM, ω tuned"]) > mean(rows["base"])


def test_what_the_table_says_of_mixing_is_what_it_shows(rows):
    text = (DEMO / "RESULTS.md").read_text("utf-8")
    winner = "data mixing" if mean(rows["data mixing"]) > mean(rows["DEM, ω tuned"]) else "DEM"
    assert f"At this size {winner} has the higher mean accuracy" in text


def test_a_table_with_the_other_outcome_says_so(results):
    other = json.loads(json.dumps(results))
    for row in other["rows"]:
        for cell in row["datasets"].values():
            cell["accuracy"] = 0.9 if row["label"] == "DEM, ω tuned" else 0.1
    assert "At this size DEM has the higher mean accuracy (10.0 for mixing, 90.0 for DEM)" in table(
        other
    )


def test_the_data_that_ships_is_generated_from_the_seed(tmp_path, results):
    write(tmp_path / "data", datasets(results["seed"]))
    made = {
        path.relative_to(tmp_path / "data"): path.read_bytes()
        for path in (tmp_path / "data").rglob("*.*")
    }
    shipped = {
        path.relative_to(DEMO / "data"): path.read_bytes() for path in (DEMO / "data").rglob("*.*")
    }
    assert made == shipped


def test_the_folder_is_small_and_clean():
    files = [path for path in DEMO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert sum(path.stat().st_size for path in (DEMO / "data").rglob("*.jsonl")) <= 2e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jsonl", ".md", ".yml"}
    for path in files:
        if path.suffix != ".safetensors":
            text = path.read_text("utf-8")
            assert str(ROOT) not in text
            assert "/tmp" not in text


def test_three_experts_are_whole_and_two_are_adapters_of_the_base():
    adapters = [name for name in NAMES if (DEMO / name / "adapter_config.json").exists()]
    assert adapters == [name for name in NAMES if "lora" in EXPERTS[name]]
    assert len(adapters) == 2
    for name in adapters:
        settings = json.loads((DEMO / name / "adapter_config.json").read_text("utf-8"))
        assert settings["base_model_name_or_path"] == "assets/demo/base"


def test_the_recipe_holds_the_tuned_omegas_and_relative_paths(results):

    recipe = parse_recipe((DEMO / "recipe.yml").read_text("utf-8"))
    assert recipe.base == "assets/demo/base"
    assert recipe.omegas == results["omegas"]
    assert formula(recipe) == results["formula"]
    assert [Path(source.location).as_posix() for source in recipe.models] == [
        f"assets/demo/{name}" for name in NAMES
    ]
    # Opening it compares the digest of each input; those of an earlier version cover samples only.
    assert not any(is_sampled(digest) for digest in recipe.inputs.values())
    assert recipe.inputs and open_recipe(relative_to(recipe, DEMO.parents[1]))


@pytest.fixture(scope="module")
def live():
    from evaluation.model import load
    from merging import LiveModel, Recipe, open_recipe

    torch.set_num_threads(1)
    recipe = Recipe.compose(DEMO / "base", {name: DEMO / name for name in NAMES})
    base, vectors = open_recipe(recipe)
    loaded = load(DEMO / "base", checkpoint=base)
    return LiveModel(loaded.module, base, vectors, loaded.views), recipe, loaded.tokenizer


def accuracy(model, tokenizer, name, limit):
    from evaluation.harness import run

    (score,) = run(model.module, tokenizer, f"demo_{name}", limit=limit)
    return score.value


@pytest.mark.parametrize("name", ["sni", "dialog"])
def test_an_expert_beats_the_base_when_measured_again(live, name):
    """A sample of the shipped weights, measured for real: one full checkpoint and one adapter."""
    model, zero, tokenizer = live
    model.apply(zero)
    base = accuracy(model, tokenizer, name, 40)
    model.apply(zero.with_omegas({name: 1.0}))
    assert accuracy(model, tokenizer, name, 40) >= base + 0.05


def test_losses_measured_again_are_those_of_the_table(live, rows, results):
    from evaluation.loss import losses
    from evaluation.prepared import prepare

    model, zero, tokenizer = live
    model.apply(zero.with_omegas(results["omegas"]))
    (found,) = losses(
        model.module, prepare({"p3": read_datasets(DEMO / "data", "test")["p3"]}, tokenizer)
    )
    assert found.value == pytest.approx(rows["DEM, ω tuned"]["p3"]["loss"], abs=5e-4)


@pytest.mark.slow
def test_a_search_counts_what_it_costs(live, monkeypatch):
    import evaluation.search
    from evaluation.prepared import prepare
    from evaluation.records.meter import Meter
    from workbench.demo.measurements import LINE, search

    whole = evaluation.search.CoordinateSearch  # here it ends before it refines
    monkeypatch.setattr(
        evaluation.search,
        "CoordinateSearch",
        lambda *at, **more: whole(*at, **more | {"smallest": 0.2}),
    )
    model, zero, tokenizer = live
    data = {
        name: examples[:2] for name, examples in read_datasets(DEMO / "data", "validation").items()
    }
    meter = Meter()
    omegas, line, trials = search(model, zero, prepare(data, tokenizer), lambda *_: None, meter)
    assert set(omegas) == set(NAMES)
    assert line in LINE
    swept = (
        1 + len(NAMES) + len(LINE) + len(trials)
    )  # the base, each expert alone, one ω for all, and the search
    assert meter.examples == swept * 2 * len(NAMES)
    assert meter.supervised > meter.examples
