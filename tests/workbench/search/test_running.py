"""A search on open models: its budget, its answers, failures, resuming, and what comes out of it."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from evaluation.errors import Stopped
from tests.workbench.conftest import finite_differences
from workbench.errors import SessionError
from workbench.search.measured import slopes_of
from workbench.search.outcome import as_data, gains_on, leaning, left_out_r2
from workbench.search.points import GRADIENT_COST, Points, measures_slopes
from workbench.search.running import FAILURES, Search
from workbench.search.wanted import METHODS, Wanted
from workbench.session.loss_on_axis import FULL
from workbench.session.session import Session

LOSS = Wanted(aim="loss", limited=False, budget=15)


def searched(session, wanted, **more):
    found = Search(session, session.models, wanted)
    steps = list(found.steps(**more))
    return found, steps


def test_a_search_finds_a_lower_loss_than_its_start_within_its_budget(session):
    found, steps = searched(session, LOSS)
    assert found.spent == steps[-1].spent <= 15
    assert len(steps) == found.spent / GRADIENT_COST == found.points.measured
    assert found.best.score < steps[0].trial.score
    again = session.losses(found.points.recipe(found.best.point))
    assert found.best.score == pytest.approx(np.mean([loss.value for loss in again.values()]))
    # Each step is at least as good as the one before.
    bests = [step.best.score for step in steps]
    assert bests == sorted(bests, reverse=True)


def test_derivatives_of_the_live_model_are_finite_differences(session):
    points = Points(session, session.models)
    here = {"ada": 0.4, "bob": -0.2, "lora": 0.7}
    measured = points.measure(here, True, lambda: False)
    for name, wanted in finite_differences(points, here).items():
        found = [row[name] for row in measured.gradients.values()]
        assert found == pytest.approx(wanted, rel=5e-3, abs=2e-4)


def test_a_step_gives_way_and_is_taken_again(session):
    points, omegas = Points(session, session.models), {"ada": 0.4, "bob": -0.2, "lora": 0.7}
    answers, asked = iter([False] * 7 + [True] + [False] * 40 + [True] * 3), 0

    def waited():
        nonlocal asked
        asked += 1
        return next(answers, False)

    steps = points.slope_steps(omegas, lambda: False, waited)
    next(steps)
    # It gave way within its first step, so that nothing is known yet.
    assert asked == 8 and session.book._database.rows("SELECT count(*) FROM slopes") == [(0,)]
    list(steps)
    identity = session.models.identity(points.recipe(omegas))
    found = slopes_of(session.book, session.models, identity)
    with session.book._database.writing() as connection:
        connection.execute("DELETE FROM slopes")
    assert points.measure(omegas, True, lambda: False).gradients == found
    with session.book._database.writing() as connection:
        connection.execute("DELETE FROM slopes")
    with pytest.raises(Stopped):
        list(points.slope_steps(omegas, lambda: True, lambda: True))


def test_a_page_measures_derivatives_unasked_where_no_weight_needs_a_gradient(
    world, tmp_path, monkeypatch
):
    session = Session([], tmp_path / "work", demo=world)
    session.open_demo()
    try:
        assert measures_slopes(session.models, "cpu") and measures_slopes(session.models, "cuda:0")
        monkeypatch.setattr("workbench.search.points.SMALL", 1)
        assert not measures_slopes(session.models, "cuda:0")  # ada and bob are dense
        session.remove("ada")
        session.remove("bob")
        assert measures_slopes(session.models, "cuda:0")
        assert not measures_slopes(session.models, "cpu")
        monkeypatch.setattr("workbench.search.points.MIDDLE", 1)
        assert not measures_slopes(session.models, "cuda:0")
    finally:
        session.close()


def test_a_search_that_is_run_again_measures_nothing(session, monkeypatch):
    first, _ = searched(session, LOSS)

    def never(*values, **more):
        raise AssertionError("measured again")

    monkeypatch.setattr("evaluation.loss.Sweep.step", never)
    monkeypatch.setattr("evaluation.landscape.omega_gradient.SlopeSweep.step", never)
    again, _ = searched(session, LOSS)
    assert again.searcher.trials == first.searcher.trials
    assert again.points.measured == 0


def test_a_search_that_was_stopped_goes_on_where_it_was(session):
    whole, _ = searched(session, replace(LOSS, method="coordinate", budget=8))
    other = replace(LOSS, method="coordinate", budget=8, seed=1)
    stopped, asked = Search(session, session.models, other), 0
    session.book._database.rows("SELECT 1")  # the cache is the only memory

    def stale():
        nonlocal asked
        asked += 1
        return asked > 12

    with session.book._database.writing() as connection:
        connection.execute("DELETE FROM losses")
    with pytest.raises(Stopped):
        list(stopped.steps(stale))
    resumed, _ = searched(session, other)
    assert resumed.searcher.trials == whole.searcher.trials
    assert 0 < resumed.points.measured <= 8


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(session, method):
    found, steps = searched(session, replace(LOSS, method=method, budget=6, levels=2))
    assert 2 <= len(steps) <= 6
    assert found.best.measured.losses.keys() == session.models.data.keys()


def test_losses_that_are_not_finite_fail_and_five_in_a_row_end_a_search(session, monkeypatch):
    whole, calls = Points.measure, 0

    def sometimes(self, omegas, gradients, stale):
        nonlocal calls
        calls += 1
        got = whole(self, omegas, gradients, stale)
        return got._replace(losses=dict.fromkeys(got.losses, math.nan)) if calls > 1 else got

    monkeypatch.setattr(Points, "measure", sometimes)
    found, steps = searched(session, replace(LOSS, method="grid", budget=30))
    assert len(steps) == 1 + FAILURES
    assert steps[-1].trial.score == math.inf and steps[-1].best == steps[0].trial
    assert "5 compositions in a row could not be measured" in found.problem
    assert "its loss on ada is nan" in found.problem
    assert found.best is not None


def test_where_nothing_helps_the_base_is_the_best(session):
    found, steps = searched(
        session, replace(LOSS, low=-1.0, high=0.0, method="grid", levels=2, budget=7)
    )
    base = np.mean([start.value for start, _ in found.ends.values()])
    assert found.best.score == pytest.approx(min(base, min(step.trial.score for step in steps)))
    harmful, _ = searched(
        session, replace(LOSS, low=1.9, high=2.0, method="grid", levels=2, budget=2)
    )
    assert set(harmful.best.point.values()) <= {1.9, 2.0}  # the base is not in this space


def test_a_budget_below_one_evaluation_is_refused(session):
    with pytest.raises(SessionError, match="the budget is 2 evaluations, and one with derivatives"):
        searched(session, replace(LOSS, budget=2))


def test_weights_that_are_not_finite_fail_the_trial_only(world, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    demo = shutil.copytree(world, tmp_path / "demo")
    weights = load_file(demo / "ada" / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], 3e38)
    save_file(weights, demo / "ada" / "model.safetensors", metadata={"format": "pt"})
    session = Session([], tmp_path / "workdir", demo=demo)
    session.open_demo()
    try:
        wanted = replace(LOSS, method="greedy", levels=2, high=2.0, budget=6)
        found, steps = searched(session, wanted)
        assert any(step.trial.score == math.inf for step in steps)
        assert found.best.point["ada"] == 0 and not found.problem
    finally:
        session.close()


def test_what_does_not_fit_the_models_is_refused_before_anything_is_measured(session):
    for wanted, words in (
        (Wanted(frozen=("eve",)), "no vector is called 'eve'; open are ada, bob, lora"),
        (Wanted(start={"eve": 1.0}), "no vector is called 'eve'"),
    ):
        with pytest.raises(SessionError, match=words):
            Search(session, session.models, wanted)
    without = replace(session.models, data={})
    with pytest.raises(SessionError, match="no data are open"):
        Search(session, without, Wanted())
    reloading = replace(session.models, loaded=replace(session.models.loaded, reloads=True))
    with pytest.raises(SessionError, match="in a model that is written in place only"):
        Search(session, reloading, Wanted(method="gradient"))
    assert session.book._database.rows("SELECT count(*) FROM losses") == [(0,)]


def test_a_limit_keeps_every_dataset_at_its_base(session):
    found, _ = searched(session, Wanted(aim="loss", budget=30, high=2.0, low=-1.0))
    base = {name: start.value for name, (start, _) in found.ends.items()}
    for name, loss in found.best.measured.losses.items():
        assert loss <= base[name] + 0.02


def test_the_outcome_names_bounds_r2_and_trials(session):
    found, _ = searched(session, replace(LOSS, high=0.05, budget=12))
    assert set(found.at_bounds()) <= set(session.models.names)
    assert all(found.best.point[name] == 0.05 for name in found.at_bounds())
    assert left_out_r2(found).keys() == session.models.data.keys()
    steps = found.searcher.weak
    assert leaning(found) == (len(steps), sum(map(bool, steps)), tuple({*sum(steps, ())}))
    rows = as_data(found)
    assert len(rows) == len(found.searcher.trials)
    assert json.loads(json.dumps(rows)) == rows
    recipe = found.points.recipe(found.best.point)
    gains = gains_on(session, session.models, recipe)
    assert [row.dataset for row in gains] == list(session.models.data)
    assert [row.loss for row in gains] == list(found.best.measured.losses.values())


def test_another_split_is_measured_on_its_own_examples(session, tmp_path):
    data = shutil.copytree(session.models.data_folder, tmp_path / "data")
    for name in session.models.names:
        lines = (data / name / "validation.jsonl").read_text().splitlines(keepends=True)
        (data / name / "test.jsonl").write_text("".join(lines[:4]))
    models = replace(session.models, data_folder=data)
    rows = gains_on(session, models, models.recipe({"ada": 0.5}), "test")
    assert [row.n for row in rows] == [4, 4, 4]
    whole = session.losses(models.recipe({"ada": 0.5}), FULL)
    assert [row.loss for row in rows] != [loss.value for loss in whole.values()]
