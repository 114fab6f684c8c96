"""What ships in assets/real is what its table says, small enough, and made on the base that is fetched."""

import json

import pytest

from corpus.near_duplicates import near
from corpus.real.datasets import EXPERTS, SPLITS, UNSEEN, VERDICTS
from merging import read_recipe
from workbench.real.base import DIGEST, NAME
from workbench.real.plan import REAL, SEEDS
from workbench.real.results_page import table
from workbench.real.search import TUNED

MOST = 30_000_000
"""Bytes of everything that ships."""


@pytest.fixture(scope="module")
def results():
    return json.loads((REAL / "results.json").read_text("utf-8"))


def lines(name, split):
    file = REAL / "data" / name / f"{split}.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_it_is_small_and_holds_nothing_else():
    files = [path for path in REAL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST
    assert {path.name for path in REAL.iterdir()} == {
        "RESULTS.md", "data", "recipe.yml", "results.json", *EXPERTS,
    }  # fmt: skip


def test_the_table_is_that_of_the_results(results):
    assert (REAL / "RESULTS.md").read_text("utf-8") == table(results)
    assert tuple(results["seeds"]) == SEEDS


@pytest.mark.parametrize("name", EXPERTS)
def test_an_adapter_is_of_the_base_and_of_the_data_that_ships(name):
    written = json.loads((REAL / name / "training.json").read_text("utf-8"))
    assert written["base"] == {"name": NAME, "identity": DIGEST}
    assert written["settings"]["seed"] == SEEDS[0]
    assert written["counts"]["examples"]["examples"] == len(lines(name, "train"))
    config = json.loads((REAL / name / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == NAME


def test_the_recipe_has_the_omegas_of_the_table(results):
    recipe = read_recipe(REAL / "recipe.yml")
    assert recipe.omegas == pytest.approx(results["rows"][f"search {TUNED} {SEEDS[0]}"]["omegas"])


@pytest.mark.parametrize("name", [*EXPERTS, UNSEEN])
def test_no_question_is_in_two_splits(name):
    asked = {
        split: [line["messages"][0]["content"] for line in lines(name, split)]
        for split in SPLITS
        if (REAL / "data" / name / f"{split}.jsonl").exists()
    }
    assert set(asked) == set(SPLITS) - ({"train"} if name == UNSEEN else set())
    for split, own in asked.items():
        others = [text for other, texts in asked.items() if other != split for text in texts]
        assert not set(own) & set(others) and len(set(own)) == len(own)
    # Splits are compared as they were when they were made: a later one with those before it.
    assert not any(near(asked["validation"], asked["test"]))


def test_every_answer_of_the_data_is_right():
    """A verifier that refuses the data's own answers would measure nothing."""
    for name, right in VERDICTS.items():
        for split in SPLITS:
            for line in lines(name, split):
                assert right(line["messages"][1]["content"], line["accepted"]), line


@pytest.mark.slow
def test_the_shipped_composition_has_the_losses_of_the_table(results, monkeypatch, tmp_path):
    """Fetches the base from the index that everything else comes from."""
    from dataclasses import replace

    import torch

    from evaluation.loss import losses
    from evaluation.model import load
    from evaluation.prepared import prepare
    from merging import LiveModel, in_memory, open_recipe
    from workbench.cli import main
    from workbench.real.rows import records

    monkeypatch.setenv("DEM_CACHE", str(tmp_path))
    assert main(["real", "path"]) == 0
    folder = tmp_path / "real" / "demo"
    recipe = read_recipe(folder / "recipe.yml")
    base, vectors = open_recipe(recipe)
    loaded = load(folder / "base", checkpoint=base, dtype=torch.float32)
    LiveModel(loaded.module, in_memory(base), vectors, loaded.views).apply(
        replace(recipe, out_dtype="float32")
    )
    prepared = prepare(records(folder / "data", "test", (*EXPERTS, UNSEEN)), loaded.tokenizer)
    row = results["rows"][f"row {TUNED} {SEEDS[0]}"]
    for loss in losses(loaded.module, prepared):
        assert loss.value == pytest.approx(row[loss.dataset]["loss"], abs=1e-3)
        assert loss.stderr == pytest.approx(row[loss.dataset]["loss_stderr"], abs=1e-3)


def test_the_readme_shows_rows_of_the_table():
    """Its first columns are the losses, and the last two are shares of right answers."""
    losses, right = (REAL / "RESULTS.md").read_text("utf-8").split("## Right answers")
    readme = (REAL.parents[1] / "README.md").read_text("utf-8")
    for here, there in {
        "base": "base",
        "five adapters, each on its own dataset": "own expert",
        "**one merged model**, ω tuned": TUNED,
        "one adapter on the mixed data": "data mixing",
    }.items():
        *shown, calls, sums = cells(readme, here)
        assert shown == [cell.split(" ± ")[0] for cell in cells(losses, there)]
        assert [calls, sums] == [f"{cell.split(' ± ')[0]} %" for cell in cells(right, there)[:2]]


def cells(text, label):
    row = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]
