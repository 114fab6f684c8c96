"""What balancing will cost: a training for each mixture, and what its method needs besides."""

import pytest

from influence.curvature.inverse import CurvatureOptions
from influence.errors import InfluenceError
from training.plan.plan_file import parse_plan
from workbench.influence_runs.ideal_rounds import IdealOptions
from workbench.influence_runs.outlooks.balance_outlook import balance_outlook

OPTIONS = IdealOptions(rounds=2, sample=10, curvature=CurvatureOptions(estimator="identity"))


@pytest.fixture
def plan(tiny_base, pool_data):
    return parse_plan(
        f"base: {tiny_base}\n"
        f"sources: {{sums: {pool_data}/sums, words: {pool_data}/words}}\n"
        f"validation: {{sums: {pool_data}/sums}}\n"
        "settings: {steps: 8, batch: 5, rate: 0.003}\nschedule: {kind: mixing}\n"
    )


def test_two_rounds_are_three_trainings(plan, tmp_path):
    outlook = balance_outlook(plan, tmp_path, "ideal", OPTIONS, start=lambda: 2.0)
    start, trainings, losses, influence = outlook.parts
    assert start.seconds == 2.0
    assert trainings.name == "3 trainings on a mixture"
    assert trainings.examples == 3 * 8 * 5 and trainings.disk > 0
    assert losses.examples == 3 * 4
    assert influence.examples == 2 * (10 + 10 + 4)  # a sample of each domain, all 4 references
    assert outlook.seconds > 2.0 and len(outlook.based_on) == 2
    assert not list(tmp_path.iterdir())


def test_an_equal_share_is_two_trainings_and_nothing_else(plan, tmp_path):
    outlook = balance_outlook(plan, tmp_path, "stratified", OPTIONS, start=lambda: 2.0)
    _, trainings, losses = outlook.parts
    assert trainings.examples == 2 * 8 * 5 and losses.examples == 2 * 4
    assert not any("influence" in each or "proxy" in each for each in outlook.based_on)


def test_only_trainings_that_are_left_take_time_and_disk(plan, tmp_path):
    """Round 1 is recorded as done; the start is not, and neither is round 2."""
    whole = balance_outlook(plan, tmp_path, "ideal", OPTIONS, start=lambda: 0.0).parts[1]
    record = tmp_path / "round-1" / "mixing" / "training.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    part = balance_outlook(plan, tmp_path, "ideal", OPTIONS, start=lambda: 0.0).parts[1]
    assert part.name == "3 trainings on a mixture, 1 of them done" and not part.done
    assert part.disk * 3 == whole.disk * 2
    assert (part.examples, part.tokens) == (whole.examples, whole.tokens)


def test_what_a_method_cannot_balance_is_refused(plan, tmp_path):
    plan.settings["replay"] = ["sums"]
    with pytest.raises(InfluenceError, match="doge trains a proxy"):
        balance_outlook(plan, tmp_path, "doge", OPTIONS, start=lambda: 0.0)
