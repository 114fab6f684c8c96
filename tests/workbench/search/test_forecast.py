"""What a page gets to predict with: which points it is fitted to, and how good it is."""

import numpy as np
import pytest

from evaluation.search.surrogate import fit
from workbench.search import forecast as module
from workbench.search.forecast import Forecasts, gathered, rows
from workbench.search.points import Points
from workbench.session.loss_on_axis import FULL
from workbench.session.session import Session


@pytest.fixture
def fresh(world, tmp_path):
    made = Session([], tmp_path / "work", demo=world)
    made.open_demo()
    yield made
    made.close()


def learn(session, omegas):
    for _ in Points(session, session.models).slope_steps(omegas, lambda: False):
        pass


def test_nothing_is_predicted_before_enough_was_measured(fresh):
    forecasts = Forecasts(fresh)
    assert forecasts.of(fresh.models)["datasets"] == {}
    fresh.losses(fresh.recipe({}), FULL)
    fresh.losses(fresh.recipe({"ada": 0.5}), FULL)
    document = forecasts.of(fresh.models)
    assert document["datasets"] == {} and document["count"] == 2


def test_it_predicts_compositions_that_it_was_not_fitted_to(fresh):
    models = fresh.models
    for omegas in ({}, {"ada": 0.5, "bob": 0.4, "lora": 0.5}, {"ada": 0.9, "bob": 0.1}):
        learn(fresh, dict.fromkeys(models.names, 0.0) | omegas)
    document = Forecasts(fresh).of(models)
    assert document["names"] == models.names and document["sloped"] == [True] * 3
    assert document["low"] == [0.0, 0.0, 0.0] and document["high"] == [0.9, 0.4, 0.5]
    surrogates = fit(models.names, gathered(fresh.book, models))
    rng = np.random.default_rng(0)
    base = {name: entry.value for name, entry in fresh.losses(fresh.recipe({}), FULL).items()}
    for x in rng.uniform([0, 0, 0], [0.9, 0.4, 0.5], (4, 3)):
        measured = fresh.losses(fresh.recipe(dict(zip(models.names, x.tolist(), strict=True))))
        for name, surrogate in surrogates.items():
            (expected,), (error,) = surrogate.predict(x[None])
            off = abs(expected - measured[name].value)
            assert off < 0.25 * abs(base[name] - measured[name].value) + 4 * error + 1e-4


def test_the_ends_of_each_axis_come_with_it(fresh):
    fresh.baselines()
    for omegas in ({"ada": 0.5}, {"bob": 0.5}, {"lora": 0.5}):
        fresh.losses(fresh.recipe(omegas), FULL)
    document = Forecasts(fresh).of(fresh.models)
    for name, (base, expert) in fresh.baselines().items():
        assert document["datasets"][name]["base"] == base.value
        assert document["datasets"][name]["expert"] == (expert.value if expert else None)


def test_it_is_fitted_again_only_when_something_was_measured(fresh, monkeypatch):
    learn(fresh, dict.fromkeys(fresh.models.names, 0.0))
    learn(fresh, dict.fromkeys(fresh.models.names, 0.3))
    forecasts, fits = Forecasts(fresh), []
    monkeypatch.setattr(
        "evaluation.search.surrogate.fit", lambda *values: fits.append(1) or fit(*values)
    )
    assert forecasts.of(fresh.models) == forecasts.of(fresh.models)
    assert len(fits) == 1
    fresh.losses(fresh.recipe({"ada": 0.7}), FULL)
    assert forecasts.of(fresh.models)["count"] == 3
    assert len(fits) == 2


def test_of_too_many_points_the_ends_and_the_best_are_taken(fresh, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 6)
    for omega in (0.1, 0.3, 0.5, 0.7, 0.9):
        fresh.losses(fresh.recipe({"ada": omega, "bob": omega}), FULL)
    fresh.losses(fresh.recipe({}), FULL)
    fresh.losses(fresh.recipe({"lora": 1.0}), FULL)
    known = gathered(fresh.book, fresh.models)
    assert rows(known) == len(known) == 6
    ends = [sum(omega != 0 for omega in trial.point.values()) <= 1 for trial in known]
    assert ends == [True, True, False, False, False, False]
    means = [trial.score for trial in known[2:]]
    assert means == sorted(means)
    # A point with derivatives takes the places of four.
    learn(fresh, {"ada": 0.3, "bob": 0.3, "lora": 0.0})
    assert rows(gathered(fresh.book, fresh.models)) <= 6


def test_a_small_model_has_its_inner_products_too(fresh, monkeypatch):
    geometry = fresh.models.measured_geometry()
    document = Forecasts(fresh).of(fresh.models)
    assert np.array(document["gram"]) == pytest.approx(geometry.grams.sum(0))
    assert document["square"] == pytest.approx(geometry.base_squares.sum())
    # A large one has them once its geometry was measured.
    monkeypatch.setattr("workbench.search.points.SMALL", 10)
    assert "gram" in Forecasts(fresh).of(fresh.models)
    fresh.models._geometry.clear()
    assert "gram" not in Forecasts(fresh).of(fresh.models)
