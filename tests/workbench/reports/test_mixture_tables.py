"""Tables of mixtures and of proposals, by hand."""

import math
from dataclasses import replace

import pytest

from evaluation.loss import Loss
from merging import Recipe
from training.plan.plan import Plan
from workbench.influence_runs.mixtures.mixture_plans import MixturePlan, MixtureRecipe
from workbench.influence_runs.mixtures.proposals import Proposal
from workbench.influence_runs.mixtures.seen_examples import Seen
from workbench.influence_runs.mixtures.tried_proposals import TriedProposal
from workbench.reports import mixture_tables

PLAN = Plan("base", {}, ())
RECIPE = Recipe.compose("base", {"a": "a", "b": "b"})


def trial(name, predicted, measured=None):
    """Two validation sets x and y; the losses are of both."""

    def losses(values):
        return tuple(
            Loss(each, value, 0.03, 9, 9, (), ()) for each, value in zip("xy", values, strict=True)
        )

    proposal = Proposal(name, name, PLAN, name, {"a": 30, "b": 10}, {"a": 0.3, "b": 0.2})
    made = TriedProposal(proposal, losses(predicted), 0.5)
    return (
        made if measured is None else replace(made, measured=losses(measured), trained_seconds=40.0)
    )


TRIALS = [
    trial("one", (1.0, 3.0), (0.9, 2.5)),
    trial("two", (1.5, 2.0), (1.0, 2.2)),
    trial("three", (2.0, 3.5), (1.1, 2.0)),
]
"""Means: predicted 2, 1.75, 2.75 and measured 1.7, 1.6, 1.55."""


def test_proposals_by_their_predicted_loss():
    text = mixture_tables.trials([trial("one", (1, 3)), trial("two", (1.5, 2))]).splitlines()
    # √(0.03² + 0.03²)/2 = 0.0212
    assert text[2].split() == ["1", "40", "0.50", "1.7500", "±", "0.0212"]
    assert text[3].split()[3] == "2.0000" and text[4:6] == ["1: two", "2: one"]
    verified = mixture_tables.trials(TRIALS).splitlines()
    assert verified[2].split()[6:] == ["1.6000", "±", "0.0212", "2", "40.0", "s"]
    assert max(map(len, verified[1:5])) <= 80


def test_what_came_beside_what_was_predicted():
    """Predicted ranks 2 1 3, measured 3 2 1: 1 − 6 · (1 + 1 + 4)/24 = −0.5. The chosen one, two,
    has 1.6, which is 0.05 above 1.55."""
    text = mixture_tables.trials(TRIALS)
    assert "over 3 proposals: -0.50; x +1.00, y -0.50" in text
    assert "the best by prediction, two, is 0.0500 above the best measured" in text
    assert "predicting took 1.5 s, training 120.0 s" in text
    data = mixture_tables.trials_as_data(TRIALS)
    assert [each["place"] for each in data["proposals"]] == [3, 2, 1]
    assert data["spearman"] == pytest.approx(-0.5) and data["n"] == 3
    assert data["spearman_per_set"] == pytest.approx({"x": 1, "y": -0.5})
    assert data["proposals"][0]["measured_mean"] == pytest.approx(1.7)
    assert mixture_tables.trial_line(TRIALS[0]) == "one: predicted 2.0000, measured 1.7000"


def test_before_training_nothing_is_measured():
    data = mixture_tables.trials_as_data([trial("one", (1, 2)), trial("two", (2, 3))])
    assert data["spearman"] is None and data["proposals"][0]["place"] is None


def test_equal_predictions_have_no_order():
    same = [replace(each, predicted=TRIALS[0].predicted) for each in TRIALS]
    assert math.isnan(mixture_tables.trials_as_data(same)["spearman"])


def test_a_mixture_names_what_it_leaves_out():
    seen = {"a": Seen(600, "--seen")}
    made = MixturePlan(PLAN, {"a": 0.5, "b": -0.1}, seen, {"a": 1.0}, {"a": 300}, ("b",))
    text = mixture_tables.mixture(made)
    assert text.splitlines()[1].split() == ["a", "0.5", "600", "100.0%", "300"]
    assert text.splitlines()[2].split() == ["b", "-0.1", "0.0%", "0"]
    assert "what the experts saw is from a: --seen" in text
    assert text.endswith("cannot be taken away: b")


def test_omegas_beyond_the_experts_are_told():
    seen = {"a": Seen(10, "training.json"), "b": Seen(20, "--seen")}
    made = MixtureRecipe(RECIPE, {"a": 0.5, "b": 0.25}, seen, {"a": 5, "b": 5})
    assert "sum to" not in mixture_tables.omegas(made)
    far = made._replace(omegas={"a": 1.5, "b": 0.25})
    assert "the ω sum to 1.75: the plan trains longer" in mixture_tables.omegas(far)
    assert "a: training.json; b: --seen" in mixture_tables.omegas(far)
