"""IDEAL in rounds: each mixture is trained from the base, and resized by what its domains do."""

from dataclasses import replace

import pytest

from evaluation.records.ledger import Ledger
from influence.curvature.inverse import CurvatureOptions
from influence.errors import InfluenceError
from training.plan.plan_file import parse_plan, plan_yaml
from workbench.influence_runs.balance_rounds import BalanceOptions, balance_rounds
from workbench.plans.recorded_run import Watcher

ONE = BalanceOptions(rounds=1, sample=8, curvature=CurvatureOptions(estimator="identity"))


@pytest.fixture
def plan(tiny_base, pool_data):
    """Four updates on 30 sums and 20 sentences; sums are to become better."""
    return parse_plan(
        f"""
base: {tiny_base}
sources: {{sums: {pool_data}/sums, words: {pool_data}/words}}
validation: {{sums: {pool_data}/sums}}
settings: {{steps: 4, batch: 10, rate: 0.003}}
schedule: {{kind: mixing}}
"""
    )


@pytest.mark.slow
def test_one_round_resizes_the_domains_and_measures_the_new_mixture(plan, tmp_path):
    seen = []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        first, last = balance_rounds(
            plan, tmp_path / "out", ONE, Watcher(), ledger=ledger, on_round=seen.append
        )
        kinds = [phase.kind for phase in ledger.phases()]
    assert seen == [first, last]
    assert first.sizes == {"sums": 30, "words": 20} and first.step is not None
    # The domain with the strongest influence changes by m, against the sign of its influence.
    assert max(map(abs, first.step.beta)) == pytest.approx(0.15)
    assert first.influence is not None
    assert all(
        alpha * beta <= 0
        for alpha, beta in zip(first.influence.alpha, first.step.beta, strict=True)
    )
    assert last.sizes == dict(zip(("sums", "words"), first.step.sizes, strict=True))
    assert last.influence is None and last.step is None
    assert first.mean != last.mean
    assert kinds == ["training", "evaluation", "influence", "training", "evaluation"]
    # What is trained already is not trained again, and gives the same.
    again = balance_rounds(plan, tmp_path / "out", ONE, Watcher())
    assert [each.mean for each in again] == [first.mean, last.mean]
    # The last mixture is a plan like any other.
    written = parse_plan(plan_yaml(last.mixture))
    assert written.steps == last.mixture.steps


def test_a_plan_without_references_and_no_rounds_are_refused(plan, tmp_path):
    with pytest.raises(InfluenceError, match="no validation sets"):
        balance_rounds(replace(plan, validation={}), tmp_path / "out", ONE, Watcher())
    with pytest.raises(InfluenceError, match="rounds is 0"):
        balance_rounds(plan, tmp_path / "out", replace(ONE, rounds=0), Watcher())
    assert not (tmp_path / "out").exists()
