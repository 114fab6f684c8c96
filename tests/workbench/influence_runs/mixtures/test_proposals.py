"""Proposals from plans and shares: what each sees, its ω, and what is none."""

import pytest

from merging import read_recipe
from training.plan.plan_file import read_plan
from workbench.errors import SessionError
from workbench.influence_runs.mixtures.proposals import named_numbers, proposals

SEEN = {"ada": 24.0, "bob": 12.0, "lora": 48.0}


@pytest.fixture
def recipe(world):
    return read_recipe(world / "recipe.yml")


def test_a_worked_example(recipe, mix_plan):
    """12 examples each: 4 of each dataset, 4/24, 4/12 and 4/48; or 9 and 3, 9/24 and 3/48."""
    plans = {"plan": read_plan(mix_plan())}
    found, seen = proposals(recipe, plans, ["ada=0.75,lora=0.25", "equal"], SEEN)
    assert [each.name for each in found] == ["plan", "ada=0.75,lora=0.25", "equal"]
    assert [each.folder for each in found] == ["plan", "ada-0.75-lora-0.25", "equal"]
    same = {"ada": 1 / 6, "bob": 1 / 3, "lora": 1 / 12}
    assert found[0].omegas == pytest.approx(same) and found[2].omegas == pytest.approx(same)
    assert found[1].amounts == pytest.approx({"ada": 9, "bob": 0, "lora": 3}, rel=0.02)
    assert found[1].omegas == pytest.approx({"ada": 9 / 24, "bob": 0, "lora": 1 / 16}, rel=0.02)
    assert {name: each.examples for name, each in seen.items()} == SEEN


def test_a_long_training_stays_within_the_experts(recipe, mix_plan):
    plans = {"plan": read_plan(mix_plan())}
    found, _ = proposals(recipe, plans, ["equal"], dict.fromkeys(SEEN, 2.0))
    assert found[0].omegas == pytest.approx(dict.fromkeys(SEEN, 1 / 3))


def test_each_end_of_a_plan_is_a_proposal(recipe, mix_plan):
    schedule = "{kind: dmt, special: [ada], general: [bob, lora], k: [1/2, 1]}"
    found, _ = proposals(recipe, {"dmt": read_plan(mix_plan(schedule))}, [], SEEN)
    assert [each.name for each in found] == ["dmt: DMT, k = 1/2", "dmt: DMT, k = 1"]
    assert found[0].folder == found[1].folder == "dmt" and found[0].step != found[1].step
    assert found[0].omegas["ada"] < found[1].omegas["ada"]


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([], "plan is the only proposal"),
        (["equal", "equal"], "equal is proposed twice"),
        (["ada=0.7,lora=0.2"], "they sum to 0.9; expected shares from 0 to 1 that sum to 1"),
        (["ada=1.5,lora=-0.5"], "expected shares from 0 to 1"),
        (["ada"], "expected NAME=NUMBER,… .*It may also be equal or proportional"),
        (["ada=0.5,ada=0.5"], "with each name once"),
    ],
)
def test_bad_proposals_are_refused(recipe, mix_plan, shares, said):
    with pytest.raises(SessionError, match=said):
        proposals(recipe, {"plan": read_plan(mix_plan())}, shares, SEEN)


def test_a_dataset_without_a_vector_is_refused(recipe, mix_plan):
    from dataclasses import replace

    two = replace(recipe, models=recipe.models[:2], inputs={})
    with pytest.raises(SessionError, match="mixed trains on lora, and the recipe has no such"):
        proposals(two, {"plan": read_plan(mix_plan())}, ["equal"], {})


def test_numbers_by_name() -> None:
    assert named_numbers("a=1, b-c=2.5e2", "--seen") == {"a": 1, "b-c": 250}
    with pytest.raises(SessionError, match=r"--seen is 'a=x'; expected NAME=NUMBER"):
        named_numbers("a=x", "--seen")
