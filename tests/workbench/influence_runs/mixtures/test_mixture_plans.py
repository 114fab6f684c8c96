"""From ω to a plan and back: worked examples, the round trip, and what has no mixture."""

from dataclasses import replace

import pytest

from influence.errors import InfluenceError
from merging import read_recipe
from training.plan.plan_file import parse_plan, plan_yaml, read_plan
from workbench.errors import SessionError
from workbench.influence_runs.mixtures.mixture_plans import mixture_plan, mixture_recipe

SEEN = {"ada": 120.0, "bob": 60.0, "lora": 80.0}


@pytest.fixture
def recipe(world):
    return read_recipe(world / "recipe.yml")


def test_a_worked_example(recipe, mix_plan):
    """0.5 · 120 = 60 of ada and 0.75 · 80 = 60 of lora; bob's ω is −0.25. The experts saw 260."""
    plan = read_plan(mix_plan())
    made = mixture_plan(recipe, plan, SEEN)
    assert made.counts == {"ada": 60, "lora": 60} and made.left_out == ("bob",)
    assert made.shares == {"ada": 0.5, "bob": 0.0, "lora": 0.5}
    assert made.plan.settings["epochs"] == 1 and "steps" not in made.plan.settings
    assert parse_plan(plan_yaml(made.plan)).steps == made.plan.steps
    dear = mixture_plan(recipe, plan, SEEN, equal_cost=True)
    assert dear.counts == {"ada": 130, "lora": 130} and dear.shares == made.shares


def test_there_and_back(recipe, mix_plan):
    """84, 12 and 24 examples, each seen once in 30 updates of 4."""
    omegas = {"ada": 0.7, "bob": 0.2, "lora": 0.3}
    asked = recipe.with_omegas(omegas)
    made = mixture_plan(asked, read_plan(mix_plan()), SEEN)
    back = mixture_recipe(recipe, made.plan, SEEN)
    assert back.amounts == pytest.approx({"ada": 84, "bob": 12, "lora": 24})
    assert back.omegas == pytest.approx(omegas)
    assert back.recipe.omegas == pytest.approx(omegas)


def test_a_dataset_that_is_not_trained_on_gets_no_omega(recipe, mix_plan):
    plan = read_plan(mix_plan("{kind: mixing, shares: {ada: 1, lora: 1}}"))
    # What bob's expert has seen need not be known.
    bare = replace(plan, sources={name: plan.sources[name] for name in ("ada", "lora")})
    back = mixture_recipe(recipe, bare, {"ada": 12, "lora": 24})
    assert back.omegas == pytest.approx({"ada": 0.5, "bob": 0, "lora": 0.25})


def test_what_has_no_mixture_is_refused_by_name(recipe, mix_plan):
    plan = read_plan(mix_plan())
    for none in ({"ada": 0, "bob": 0, "lora": 0}, {"ada": -1, "bob": 0, "lora": -0.5}):
        with pytest.raises(InfluenceError, match=r"no ω is above 0 \(ada"):
            mixture_plan(recipe.with_omegas(none), plan, SEEN)
    alone = replace(plan, sources={"ada": plan.sources["ada"]})
    with pytest.raises(SessionError, match="the plan has no source lora, whose ω is above 0"):
        mixture_plan(recipe, alone, SEEN)
    tiny = recipe.with_omegas({"ada": 1e-4, "bob": 0.0, "lora": 0.0})
    with pytest.raises(SessionError, match=r"has 0.012 examples in all"):
        mixture_plan(tiny, plan, SEEN)


def test_what_has_no_recipe_is_refused_by_name(recipe, mix_plan):
    with pytest.raises(SessionError, match="ends in 3 models: expert ada, expert bob, expert lora"):
        mixture_recipe(recipe, read_plan(mix_plan("{kind: experts}")), SEEN)
    two = replace(recipe, models=recipe.models[:2], inputs={})
    with pytest.raises(SessionError, match="trains on lora, and the recipe has no such vector"):
        mixture_recipe(two, read_plan(mix_plan()), {"ada": 9, "bob": 9})
