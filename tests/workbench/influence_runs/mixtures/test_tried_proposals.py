"""Proposals tried: predicted as dem loss measures the recipe, then trained and compared."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.loss import losses
from evaluation.records.ledger import Ledger
from influence.errors import InfluenceStopped
from merging import read_recipe, recipe_yaml
from training.plan.plan_file import read_plan
from workbench.cli import main
from workbench.errors import SessionError
from workbench.influence_runs.mixtures.proposals import proposals
from workbench.influence_runs.mixtures.tried_proposals import (
    mean_loss,
    predict,
    validation_sets,
    verify,
)
from workbench.influence_runs.opened_recipe import open_models
from workbench.influence_runs.trained_model import load_trained
from workbench.plans.recorded_run import Watcher

SEEN = {"ada": 24.0, "bob": 12.0, "lora": 48.0}


@pytest.fixture
def asked(world, mix_plan):
    """The opened recipe, two proposals, and the validation sets."""
    opened = open_models(read_recipe(world / "recipe.yml"))
    plan = read_plan(mix_plan())
    found, _ = proposals(opened.recipe, {"plan": plan}, ["ada=0.75,lora=0.25"], SEEN)
    return opened, found, validation_sets(opened, [plan], 7)


def test_the_prediction_is_the_loss_of_the_recipe(asked, world, tmp_path):
    """As dem loss measures it, to the last bit; each costs a row of the ledger."""
    opened, found, prepared = asked
    seen = []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        trials = predict(
            opened, found, prepared, ledger=ledger, progress=lambda *at: seen.append(at)
        )
        rows = [(row.kind, row.name, row.examples, row.complete) for row in ledger.phases()]
    assert seen == [(1, 2), (2, 2)]
    assert rows == [("influence", f"merged for {each.name}", 21, True) for each in found]
    assert trials[0].predicted != trials[1].predicted
    for number, trial in enumerate(trials):
        file, table = tmp_path / f"{number}.yml", tmp_path / f"{number}.json"
        file.write_text(recipe_yaml(opened.recipe.with_omegas(trial.proposal.omegas)))
        words = ["loss", file, "--data", world / "data", "--limit", 7, "--json", table]
        assert main([str(word) for word in words]) == 0
        rows = json.loads(table.read_text())["losses"]
        assert [row["value"] for row in rows] == [each.value for each in trial.predicted]


def test_a_stopped_prediction_says_so(asked):
    opened, found, prepared = asked
    with pytest.raises(InfluenceStopped):
        predict(opened, found, prepared, should_stop=lambda: True)


def test_what_cannot_be_measured_is_refused(asked, mix_plan, world, tmp_path):
    opened, _, _ = asked
    plan = read_plan(mix_plan())
    with pytest.raises(SessionError, match="no validation sets"):
        validation_sets(opened, [replace(plan, validation={})], None)
    with pytest.raises(SessionError, match="which has other weights"):
        validation_sets(opened, [plan, replace(plan, base=str(world / "ada"))], None)
    # The same weights elsewhere are the same base.
    shutil.copytree(world / "base", tmp_path / "copied")
    validation_sets(opened, [replace(plan, base=str(tmp_path / "copied"))], None)


@pytest.mark.slow
def test_each_proposal_is_trained_and_measured(asked, world, tmp_path):
    opened, found, prepared = asked
    seen = []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        before = predict(opened, found, prepared)
        trials = verify(
            before, tmp_path / "tried", prepared, Watcher(), ledger=ledger, on_trial=seen.append
        )
        rows = ledger.phases()
    assert seen == trials
    assert [row.kind for row in rows] == ["training", "evaluation"] * 2
    for trial, old, row in zip(trials, before, rows[::2], strict=True):
        assert trial.predicted == old.predicted and trial.measured != trial.predicted
        assert trial.trained_seconds == pytest.approx(row.wall_seconds)
        assert row.output == str(trial.folder.resolve()) and row.examples == 12
        module = load_trained(Path(world / "base"), trial.folder).module
        assert tuple(losses(module, prepared)) == trial.measured
    # What is trained already is not trained again, and costs what it cost.
    again = verify(before, tmp_path / "tried", prepared, Watcher())
    assert again == trials
    assert mean_loss(again[0].measured or ()) == mean_loss(trials[0].measured or ())


@pytest.mark.slow
def test_the_stages_of_a_proposal_cost_together(world, mix_plan, tmp_path):
    opened = open_models(read_recipe(world / "recipe.yml"))
    plan = read_plan(mix_plan("{kind: dmt, special: [ada], general: [bob, lora], k: [1/2, 0]}"))
    found, _ = proposals(opened.recipe, {"dmt": plan}, [], SEEN)
    prepared = validation_sets(opened, [plan], 3)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        trials = verify(
            predict(opened, found, prepared), tmp_path / "t", prepared, Watcher(), ledger=ledger
        )
        first, *ends = [row.wall_seconds for row in ledger.phases("training")]
    assert [trial.trained_seconds for trial in trials] == pytest.approx(
        [first + end for end in ends]
    )
