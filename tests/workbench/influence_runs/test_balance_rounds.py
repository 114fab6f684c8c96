"""Methods on one plan: each mixture is trained from the base, measured once, and found again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from corpus import Example, Source, write_jsonl
from evaluation.records.ledger import Ledger
from influence.curvature.inverse import CurvatureOptions
from influence.errors import InfluenceError, InfluenceStopped
from training.plan.faults import PlanError
from training.plan.plan_file import parse_plan, plan_yaml
from workbench.influence_runs.balance_rounds import balance_rounds
from workbench.influence_runs.ideal_rounds import IdealOptions
from workbench.plans.recorded_run import Watcher

ONE = IdealOptions(rounds=1, sample=8, curvature=CurvatureOptions(estimator="identity"))


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


def balanced(plan, out, *methods, watcher=None, **more):
    return balance_rounds(plan, out, methods, ONE, watcher or Watcher(), **more)


@pytest.mark.slow
def test_one_round_resizes_the_domains_and_measures_the_new_mixture(plan, tmp_path):
    seen, counts = [], []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        first, last = balanced(
            plan, tmp_path / "out", "ideal", ledger=ledger, on_round=seen.append,
            on_training=lambda *count: counts.append(count),
        )  # fmt: skip
        kinds = [phase.kind for phase in ledger.phases()]
    # The influence of a round is known before the next one is trained.
    assert seen == [(replace(first, influence=None, step=None),), (first, last)]
    assert counts == [(0, 2), (1, 2), (2, 2)]
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
    again = balanced(plan, tmp_path / "out", "ideal")
    assert [each.mean for each in again] == [first.mean, last.mean]
    # The last mixture is a plan like any other.
    written = parse_plan(plan_yaml(last.mixture))
    assert written.steps == last.mixture.steps


@pytest.mark.slow
def test_proposals_of_proxies_are_trained_for_as_long_as_the_start(plan, tmp_path):
    """With adapters, which the reference model has too."""
    plan = replace(plan, settings={**plan.settings, "lora": {"rank": 2}})
    seen, counts = [], []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        made = balanced(
            plan, tmp_path / "out", "doremi", "doge", "stratified", ledger=ledger,
            on_round=seen.append, on_training=lambda *count: counts.append(count),
        )  # fmt: skip
        phases = {phase.name: phase for phase in ledger.phases()}
    start, doremi, doge, stratified = made
    assert seen == [tuple(made[:count]) for count in (1, 2, 3, 4)]
    # Two proxies and three proposals besides the start.
    assert counts == [(done, 6) for done in range(7)]
    assert [each.method for each in made] == ["start", "doremi", "doge", "stratified"]
    assert stratified.sizes == {"sums": 25, "words": 25}
    updates = {
        json.loads((each.folder / "training.json").read_text())["kept_step"] for each in made
    }
    assert updates == {4} and all(each.tokens for each in made)
    for each in (doremi, doge):
        assert each.proxy.trace.weights.shape == (5, 2)
        np.testing.assert_array_equal(each.proxy.trace.weights[0], [0.5, 0.5])
        assert (each.proxy.trace.weights[1:] != 0.5).all()
        assert each.sizes == each.proxy.trace.sizes(50) and sum(each.sizes.values()) == 50
        assert phases[f"proxy of {each.method}"].tokens == each.proxy.tokens
    # Four updates of five examples of each domain; DOGE's also of its one target.
    assert phases["proxy of doremi"].examples == 40 and phases["proxy of doge"].examples == 60
    assert phases["reference losses of doremi"].examples == 40
    assert (start.proxy, stratified.proxy) == (None, None)


@pytest.mark.slow
def test_a_proxy_that_was_stopped_begins_anew_and_a_finished_one_is_read(plan, tmp_path):
    whole = balanced(plan, tmp_path / "whole", "doge")[1].proxy.trace
    moments = []

    def stops_in_the_proxy():
        return bool(moments) and moments[-1].step == "proxy of doge" and moments[-1].done == 2

    watcher = Watcher(on_moment=moments.append, should_stop=stops_in_the_proxy)
    with pytest.raises(InfluenceStopped, match="step 3 of the proxy of DOGE"):
        balanced(plan, tmp_path / "out", "doge", watcher=watcher)
    assert not list((tmp_path / "out").glob("doge*"))
    steps = []
    watcher = Watcher(on_moment=lambda moment: steps.append(moment.step))
    first = balanced(plan, tmp_path / "out", "doge", watcher=watcher)[1]
    np.testing.assert_array_equal(first.proxy.trace.weights, whole.weights)
    # The start was trained before the stop.
    assert steps.count("proxy of doge") == 4 and steps[0] == "proxy of doge"
    steps.clear()
    again = balanced(plan, tmp_path / "out", "doge", watcher=watcher)[1]
    assert not steps
    np.testing.assert_array_equal(again.proxy.trace.weights, whole.weights)
    assert (again.sizes, again.mean) == (first.sizes, first.mean)
    # The start does not depend on what is validated, but DOGE's targets do.
    other = replace(plan, validation={"sums": plan.sources["words"]})
    with pytest.raises(InfluenceError, match="another validation/sums than the plan has now"):
        balanced(other, tmp_path / "out", "doge")


def test_what_cannot_be_balanced_is_refused_before_the_first_training(plan, tmp_path):
    out = tmp_path / "out"

    def refused(said, *methods, **changes):
        with pytest.raises((InfluenceError, PlanError), match=said):
            balanced(replace(plan, **changes), out, *methods)

    refused("no validation sets", "ideal", validation={})
    refused("one source, sums, and there is nothing to balance", "doge",
            sources={"sums": plan.sources["sums"]})  # fmt: skip
    refused("no method is called 'uniform'; expected one of ideal.*is stratified", "uniform")
    refused("doge, doge; expected one or more, each once", "doge", "doge")
    replay = {**plan.settings, "replay": ("words",), "replay_share": 0.1}
    refused("doremi trains a proxy.*have replay", "doremi", settings=replay)
    # Of these examples, no token to learn is within the model's context of 256 tokens.
    write_jsonl(tmp_path / "mute.jsonl", [Example("say one two three " * 200, " four")])
    mute = Source("mute", str(tmp_path / "mute.jsonl"))
    cut = {"settings": {**plan.settings, "too_long": "cut"}}
    refused("sources.mute: none of the 1 examples fits", "doremi",
            sources={**plan.sources, "mute": mute}, **cut)  # fmt: skip
    refused("validation.mute: none of the 1 examples fits", "doge",
            validation={**plan.validation, "mute": mute}, **cut)  # fmt: skip
    with pytest.raises(InfluenceError, match="rounds is 0"):
        replace(ONE, rounds=0)
    assert not out.exists()
