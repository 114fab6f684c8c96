"""The trials that the page's list of measured sums has not: groups of layers, scores, other methods."""

import json

import pytest

from evaluation.records.scores import RunStore
from merging.recipe import parse_recipe
from workbench.errors import SessionError
from workbench.line import searched_trials as module
from workbench.line.contract import ProtocolError, standing_of
from workbench.line.searched_trials import recipe_of_trial, searched_trials
from workbench.search.record import ABOUT, SearchRecord
from workbench.search.running import Search
from workbench.search.wanted import TaskAim, Wanted
from workbench.session.standing import Choice


@pytest.fixture
def kept(session, tmp_path, monkeypatch):
    """A function: searches, and returns what the page gets of it, and the search."""
    record = SearchRecord(tmp_path)
    monkeypatch.setattr(module.process, "records", lambda session: [record])

    def search(**wanted):
        found = Search(session, session.models, Wanted(limited=False, **wanted))
        about = {"title": "ω by something", "aim": found.wanted.aim}
        (tmp_path / ABOUT).write_text(json.dumps(about))
        for step in found.steps():
            record.add_trial(found, step.trial)
        return searched_trials(session)["searches"], found

    return search


def test_groups_are_one_cell_for_each_vector_and_their_recipe_goes_by_its_digest(session, kept):
    (shown,), found = kept(aim="loss", method="coordinate", budget=10, groups="depth")
    assert shown["groups"] == ["embeddings", "early layers", "middle layers", "head"]
    assert (shown["title"], shown["aim"], shown["percent"]) == (
        "ω by something",
        "mean loss",
        False,
    )
    assert shown["count"] == len(shown["rows"]) == 10 and shown["parameters"] == []
    values = [row["value"] for row in shown["rows"]]
    assert values == sorted(values) and values[0] == pytest.approx(found.best.score)
    # The adapter changes the attention of layers only.
    assert all(
        row["omegas"]["lora"][0] is row["omegas"]["lora"][3] is None for row in shown["rows"]
    )
    for row in shown["rows"]:
        recipe = parse_recipe(recipe_of_trial(session, {"digest": row["digest"]})["text"])
        assert recipe.digest == row["digest"]
        losses = session.losses(recipe)
        assert row["value"] == pytest.approx(
            sum(loss.value for loss in losses.values()) / len(losses)
        )
        alike = all(len({*own} - {None}) == 1 for own in row["omegas"].values())
        assert (row["to"] is not None) is alike
    assert {row["to"] is None for row in shown["rows"]} == {True, False}


def test_a_composition_of_a_benchmark_is_set_by_the_sliders(session, kept):
    bench = TaskAim(tasks=("demo_cot",), limit=3)
    (shown,), _ = kept(aim="score", method="greedy", levels=2, budget=3, bench=bench)
    assert (shown["aim"], shown["groups"]) == ("mean score", [])
    with RunStore(session.workdir.runs) as store:
        runs = {run.recipe_digest: run for run in store.runs()}
    for row in shown["rows"]:
        assert row["value"] == runs[row["digest"]].value
        assert row["to"]["omegas"] == {name: omega for name, (omega,) in row["omegas"].items()}
        assert row["to"]["method"] == "task_arithmetic"


def test_a_number_of_a_method_is_set_with_the_omegas(session, kept):
    more = {"merge": Choice("ties"), "vary": {"density": (0.2, 0.6)}}
    (shown,), _ = kept(aim="loss", method="tpe", budget=3, **more)
    assert shown["parameters"] == ["density"]
    for row in shown["rows"]:
        assert row["to"]["parameters"] == row["parameters"]
        choice = standing_of(row["to"], session.models).choice
        assert choice == Choice("ties", row["parameters"])


def test_plain_sums_are_in_the_other_list_and_unknown_recipes_are_refused(session, kept):
    searches, _ = kept(aim="loss", method="coordinate", budget=3)
    assert searches == []
    with pytest.raises(SessionError, match="has measured a recipe 'abc'"):
        recipe_of_trial(session, {"digest": "abc"})
    for wrong in (None, {}, {"digest": 1}):
        with pytest.raises(ProtocolError, match="expected the digest"):
            recipe_of_trial(session, wrong)


@pytest.mark.parametrize("about", [{"title": "ω by loss"}, {}, None])
def test_a_search_that_says_no_aim_is_not_listed(session, tmp_path, monkeypatch, about):
    if about is not None:
        (tmp_path / ABOUT).write_text(json.dumps(about))
    monkeypatch.setattr(module.process, "records", lambda session: [SearchRecord(tmp_path)])
    assert searched_trials(session)["searches"] == []
