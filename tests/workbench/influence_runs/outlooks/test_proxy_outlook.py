"""What a proxy will cost: the tokens of its steps exactly, and no time if it is finished."""

import pytest

from corpus import load
from training.plan.estimate import estimate
from training.plan.plan_file import parse_plan
from workbench.influence_runs.outlooks.proxy_outlook import proxy_outlook


@pytest.fixture(scope="module")
def asked(tiny_base, pool_data):
    """proxy_outlook(method, done): of a plan of 8 updates of 5 examples, to improve the sums."""

    def ask(method, done=False, own=False):
        plan = parse_plan(
            f"base: {tiny_base}\n"
            f"sources: {{sums: {pool_data}/sums, words: {pool_data}/words}}\n"
            f"validation: {{sums: {pool_data}/sums}}\n"
            "settings: {steps: 8, batch: 5, rate: 0.003}\nschedule: {kind: mixing}\n"
        )
        [step] = estimate(plan)
        domains, wanted = (
            {name: load(each, reach=plan.reach) for name, each in some.items()}
            for some in (plan.sources, plan.validation)
        )
        return proxy_outlook(method, step, domains, domains if own else wanted, done=done)

    return ask


def test_doremi_reads_each_drawn_example_once_and_trains_on_each_draw(asked):
    read, proxy = asked("doremi")
    # ⌈5 / 2⌉ = 3 of each domain in a step: 24 draws of 30 sums, and 24 of all 20 sentences.
    assert read.examples == 24 + 20 and proxy.examples == 8 * 3 * 2
    assert 0 < read.tokens < proxy.tokens and proxy.name == "proxy of doremi, 8 steps"
    assert read.seconds > 0 and proxy.seconds > read.seconds


def test_doge_draws_of_each_target_too_unless_the_targets_are_the_domains(asked):
    [proxy] = asked("doge")
    assert proxy.examples == 8 * 3 * 3 and proxy.seconds > 0
    [own] = asked("doge", own=True)
    assert own.examples == 8 * 3 * 2


@pytest.mark.parametrize("method", ["doremi", "doge"])
def test_a_finished_proxy_takes_no_time(asked, method):
    parts = asked(method, done=True)
    assert all(part.done and part.seconds == 0 and part.tokens for part in parts)
