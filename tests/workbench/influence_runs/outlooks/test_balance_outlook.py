"""What balancing will cost: a training for each mixture, an influence for each round."""

from influence.curvature.inverse import CurvatureOptions
from training.plan.plan_file import parse_plan
from workbench.influence_runs.ideal_rounds import IdealOptions
from workbench.influence_runs.outlooks.balance_outlook import balance_outlook


def test_two_rounds_are_three_trainings(tiny_base, pool_data, tmp_path):
    plan = parse_plan(
        f"base: {tiny_base}\n"
        f"sources: {{sums: {pool_data}/sums, words: {pool_data}/words}}\n"
        f"validation: {{sums: {pool_data}/sums}}\n"
        "settings: {steps: 8, batch: 5, rate: 0.003}\nschedule: {kind: mixing}\n"
    )
    options = IdealOptions(rounds=2, sample=10, curvature=CurvatureOptions(estimator="identity"))
    outlook = balance_outlook(plan, tmp_path, options, start=lambda: 2.0)
    start, trainings, losses, influence = outlook.parts
    assert start.seconds == 2.0
    assert trainings.examples == 3 * 8 * 5 and trainings.disk > 0
    assert losses.examples == 3 * 4
    assert influence.examples == 2 * (10 + 10 + 4)  # a sample of each domain, all 4 references
    assert outlook.seconds > 2.0 and len(outlook.based_on) == 2
    assert not list(tmp_path.iterdir())
