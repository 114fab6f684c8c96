"""What the page shows of a search that sliders cannot: groups of layers, their losses, scores."""

import json

import pytest

from merging.recipe import parse_recipe
from workbench.line import search_found
from workbench.search.record import ABOUT, RESULT, Progress, SearchRecord
from workbench.search.running import Search
from workbench.search.wanted import Wanted


@pytest.fixture
def record(session, tmp_path, monkeypatch):
    """The folder of the newest search."""
    monkeypatch.setattr(search_found.process, "newest", lambda session: SearchRecord(tmp_path))
    return SearchRecord(tmp_path)


def test_before_the_first_composition_there_is_nothing(session, record):
    assert search_found.found(session) is None
    record.write(Progress(0, 9))
    assert search_found.found(session) is None


def test_groups_are_columns_and_the_recipe_is_what_was_measured(session, record):
    wanted = Wanted("loss", "coordinate", 10, groups="depth", limited=False)
    search = Search(session, session.models, wanted)
    for _ in search.steps():
        record.write_step(search, session.workdir)
    shown = search_found.found(session)
    assert shown["groups"] == ["embeddings", "early layers", "middle layers", "head"]
    assert list(shown["omegas"]) == session.models.names
    # The adapter changes no embedding.
    assert set(shown["omegas"]["lora"]) == {"early layers", "middle layers"}
    recipe = parse_recipe(shown["recipe"]["text"])
    assert recipe.digest == search.recipe_of(search.best).digest
    assert shown["recipe"]["name"] == f"{recipe.digest}.yml"
    words = shown["recipe"]["merge"].split()
    assert words[:2] == ["dem", "merge"] and words[2].endswith(shown["recipe"]["name"])
    losses = {row["dataset"]: row["loss"] for row in shown["losses"]["validation"]}
    assert losses == pytest.approx(
        {name: loss.value for name, loss in session.losses(recipe).items()}
    )
    # A report has more: splits, and shares with their errors.
    splits = {"validation": [{"dataset": "ada", "loss": 1.0, "share": 0.5}], "test": []}
    (record.folder / RESULT).write_text(json.dumps({"splits": splits, "benchmarks": {}}))
    assert search_found.found(session)["losses"] == splits
    (session.workdir.recipes / shown["recipe"]["name"]).unlink()
    assert search_found.found(session)["recipe"] is None


def test_scores_of_tasks_are_no_losses_of_datasets(session, record):
    record.write(Progress(2, 4, 2, "mean score 0.3", {"ada": 0.5}, losses={"demo_cot": -0.3}))
    shown = search_found.found(session)
    assert (shown["recipe"], shown["groups"], shown["losses"]) == (None, None, {})
    row = {"task": "demo_cot", "metric": "acc", "base": 0.1, "here": 0.3, "error": 0.05}
    (record.folder / RESULT).write_text(json.dumps({"splits": {}, "benchmarks": {"demo": [row]}}))
    assert search_found.found(session)["scores"] == {"demo": [row]}


def test_another_merge_method_is_beside_task_arithmetic(session, record):
    losses = dict.fromkeys(session.models.data, 1.0)
    record.write(Progress(4, 4, 4, "", {"ada": 0.5}, losses=losses, method="ties"))
    assert search_found.found(session)["methods"] == []
    (record.folder / ABOUT).write_text(json.dumps({"aim": "share"}))
    splits = {"test": [{"dataset": "ada", "loss": 1.0}, {"dataset": "bob", "loss": 1.5}]}
    other = {"test": [{"dataset": "ada", "loss": 1.25}, {"dataset": "bob", "loss": 1.75}]}
    plain = {"score": -0.55, "splits": other}
    document = {"score": -0.61, "splits": splits, "task_arithmetic": plain}
    (record.folder / RESULT).write_text(json.dumps(document))
    rows = search_found.found(session)["methods"]
    assert [(row["method"], row["losses"]) for row in rows] == [
        ("ties", {"test": 1.25}),
        ("task_arithmetic", {"test": 1.5}),
    ]
    assert [row["value"] for row in rows] == pytest.approx([61.0, 55.0])
    assert {(row["aim"], row["percent"]) for row in rows} == {("mean share", True)}
