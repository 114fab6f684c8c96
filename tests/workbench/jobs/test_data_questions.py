"""Questions about data as jobs: what is refused, what is kept, stopping, and going on."""

import json
from dataclasses import replace

import pytest

from corpus import Example, write_jsonl
from influence.errors import InfluenceError
from merging.recipe import recipe_yaml
from workbench.errors import SessionError
from workbench.influence_runs.data_answers import answer
from workbench.influence_runs.data_settings import (
    BalanceSettings,
    MisfiledSettings,
    SelectSettings,
)
from workbench.influence_runs.study import open_study
from workbench.jobs import data_questions
from workbench.session.session import Session


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A pool of 40 sums and 30 words, and 3 targets of each."""
    home = tmp_path_factory.mktemp("data")
    for name, count in (("ada", 40), ("bob", 30)):
        rows = [Example(f"{name} {n} and {n % 7}", f" {n + n % 7}") for n in range(count + 3)]
        write_jsonl(home / name / "train.jsonl", rows[:count])
        write_jsonl(home / name / "validation.jsonl", rows[count:])
    return home


@pytest.fixture
def opened(world, data, tmp_path):
    made = Session([data], tmp_path / "workdir", demo=world)
    made.open_demo()
    yield made
    made.close()


@pytest.fixture
def settings(world, data):
    return SelectSettings(
        str(world / "base"), str(data), str(data), method="random", count=5, size=16,
        warm_share=0.3, epochs=1, rank=2, batch=7,
    )  # fmt: skip


def test_what_is_refused_says_which_field_and_what_next(opened, settings, world, data, tmp_path):
    """And leaves no folder of a run."""
    empty = world / "ada"
    for change, said in (
        ({"base": str(data)}, "Base model: .* holds no model"),
        ({"pool": str(tmp_path)}, "Pool: .* is outside the folders this server may read"),
        ({"pool": str(empty)}, "Pool: .* holds no <dataset>/train.jsonl. Give a folder"),
        ({"targets": str(data), "target_split": "dev"}, "Targets: .*/dev.jsonl"),
    ):
        with pytest.raises(SessionError, match=said):
            data_questions.submit(opened, "one", replace(settings, **change))
    with pytest.raises(SessionError, match="the name of the run is '../x'"):
        data_questions.submit(opened, "../x", settings)
    plan = f"base: {world}/base\nsources: {{ada: {data}/ada}}\nsettings: {{steps: 1, batch: 2}}\n"
    two = plan.replace("}\n", f", bob: {data}/bob}}\nvalidation: {{ada: {data}/ada}}\n", 1)
    draws = two.replace("steps: 1", "replay: ada, replay_share: 0.1, steps: 1")
    for text, method, said in (
        (plan, "ideal", "no validation sets"),
        (plan + f"validation: {{ada: {data}/ada}}\n", "stratified", "has one source, ada"),
        (draws, "doge", "doge trains a proxy.*have replay"),
        (two, "uniform", "no method is called 'uniform'"),
    ):
        asked = BalanceSettings(text + "schedule: {kind: mixing}\n", method)
        with pytest.raises(InfluenceError, match=said):
            data_questions.submit(opened, "one", asked)
    write_jsonl(data.parent / "more" / "eve" / "train.jsonl", [Example("a", " b")])
    recipe = recipe_yaml(opened.recall(""))
    with pytest.raises(SessionError, match="Data: .*outside"):
        data_questions.submit(opened, "one", MisfiledSettings(recipe, str(data.parent / "more")))
    assert not (opened.workdir.root / "data").exists() and not opened.jobs.active()


def test_a_dataset_needs_an_open_expert(world, tmp_path):
    write_jsonl(tmp_path / "data" / "eve" / "train.jsonl", [Example("a", " b")])
    session = Session([tmp_path / "data"], tmp_path / "workdir", demo=world)
    session.open_demo()
    try:
        asked = MisfiledSettings(recipe_yaml(session.recall("")), str(tmp_path / "data"))
        with pytest.raises(SessionError, match="has eve, and the open models are ada, bob, lora"):
            data_questions.check(session, asked)
    finally:
        session.close()


def test_selections_share_a_study_until_the_pool_or_the_warm_up_changes(opened, settings, data):
    study, pool = data_questions.study_of(opened, settings)
    assert pool == 70
    same = replace(settings, method="rds", count=9, policy="max", target_split="train")
    assert data_questions.study_of(opened, same) == (study, pool)
    for change in ({"epochs": 2}, {"size": 32}, {"seed": 1}):
        assert data_questions.study_of(opened, replace(settings, **change))[0] != study
    file = data / "bob" / "train.jsonl"
    before = file.read_bytes()
    try:
        file.write_bytes(before.replace(b"bob 1 ", b"bob 9 "))
        assert data_questions.study_of(opened, settings)[0] != study
    finally:
        file.write_bytes(before)


@pytest.mark.slow
def test_a_selection_runs_and_its_name_is_taken(opened, settings):
    job = data_questions.submit(opened, "one", settings)
    assert data_questions.submit(opened, "one", settings).id == job.id  # a second click
    assert "--begin-only" in job.command and "--method random" in job.command
    job = opened.jobs.wait(job.id, 120)
    assert job.state == "done", job.error
    found = answer(opened.workdir, "select", "one")
    assert len(found["chosen"]) == 5 and found["method"] == "random"
    assert data_questions.runs(opened, "select") == ["one"]
    assert data_questions.settings_of(opened, "select", "one") == settings
    with pytest.raises(SessionError, match="one is finished already"):
        data_questions.submit(opened, "one", settings)
    with pytest.raises(SessionError, match="one is finished; its answer"):
        data_questions.resume(opened, "select", "one")


@pytest.mark.slow
def test_less_is_stopped_and_goes_on_without_what_is_done(opened, settings):
    less = replace(settings, method="less")
    job = data_questions.submit(opened, "two", less)
    data_questions.stop(opened, "select", "two")
    assert opened.jobs.wait(job.id, 120).state == "cancelled"
    assert not data_questions.is_finished(opened, "select", "two")
    with pytest.raises(SessionError, match="Press Resume"):
        data_questions.submit(opened, "two", less)
    job = opened.jobs.wait(data_questions.resume(opened, "select", "two").id, 240)
    assert job.state == "done", job.error
    study, _ = data_questions.study_of(opened, less)
    assert open_study(study).warm_up == less.warm_up
    every = data_questions.commands_of(opened, "two", less)
    assert [each.name for each in data_questions._left(every, less)] == ["selection by less"]
    assert {phase.name for phase in opened.ledger.phases("influence")} == {
        "gradients of the pool (sgd)", "scores by less",
    }  # fmt: skip


@pytest.mark.slow
def test_misfiled_examples_are_found_among_the_open_models(opened, data):
    recipe = recipe_yaml(opened.recall(""))
    asked = MisfiledSettings(recipe, str(data), limit=4)
    job = data_questions.submit(opened, "three", asked)
    job = opened.jobs.wait(job.id, 120)
    assert job.state == "done", job.error
    suspects = answer(opened.workdir, "misfiled", "three")["suspects"]
    assert len(suspects) == 8 and {each["dataset"] for each in suspects} == {"ada", "bob"}
    file = opened.workdir.data_run("misfiled", "three") / "suspects.csv"
    assert len(file.read_text().splitlines()) == 9
    assert json.loads((file.parent / "run.json").read_text())["limit"] == 4
