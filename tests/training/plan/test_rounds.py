"""The plan of a round: the same base, data and settings, with new shares and a draw of its own."""

from fractions import Fraction

import pytest

from training.errors import TrainingError
from training.plan.estimate import estimate
from training.plan.faults import PlanError
from training.plan.plan_file import parse_plan, plan_yaml
from training.plan.rounds import round_seed, with_parts, with_shares

MORE = "validation: {math: held/math.jsonl}\nsubset_seed: 3\n"


def test_a_round_by_hand(plan, home):
    """Sources of 40, 24 and 32 examples; general is left out and code comes one and a half times."""
    asked = plan("[{kind: experts}, {kind: dmt, special: [math, code], general: [general]}]")
    made = with_shares(asked, {"math": 0.25, "code": Fraction(3, 2), "general": 0}, round=1)
    assert (made.base, made.sources, made.settings) == (asked.base, asked.sources, asked.settings)
    (step,) = made.steps
    assert step.shares == {"code": Fraction(3, 2), "math": Fraction(1, 4)}
    (ready,) = estimate(made)
    assert ready.taken == {"code": 36, "math": 10}
    assert parse_plan(plan_yaml(made), home=home) == made


def test_each_round_draws_anew_and_is_drawn_again_the_same(plan, text):
    asked = plan("{kind: experts}", "{epochs: 1, batch: 4, device: cpu, precision: fp32}", MORE)
    shares = {"math": 0.5, "code": 0.5, "general": 0.5}

    def drawn(number):
        (ready,) = estimate(with_shares(asked, shares, round=number))
        assert list(ready.stage.validation) == ["math"]
        return ready.stage.examples

    assert drawn(0) == drawn(0)
    assert len({drawn(number) for number in (None, 0, 1, 2)}) == 4
    assert with_shares(asked, shares).subset_seed == 3


def test_seeds_of_rounds_are_all_different():
    seeds = [round_seed(seed, number) for seed in range(30) for number in range(30)]
    assert len(set(seeds)) == 900 and all(0 <= seed < 2**32 for seed in seeds)


def test_shares_that_cannot_be_are_refused(plan):
    asked = plan("{kind: experts}")
    with pytest.raises(TrainingError, match="nothing to train on"):
        with_shares(asked, {"math": 0, "code": 0.0})
    for shares, words in (
        ({"mth": 1}, "mth"), ({"math": -1}, "math"), ({"math": float("nan")}, "math"),
        ({"math": float("inf")}, "math"), ({"math": "half"}, "half"),
    ):  # fmt: skip
        with pytest.raises(PlanError, match=words):
            with_shares(asked, shares, round=0)


def test_a_mixture_of_counts_is_taken_to_the_example(plan, home):
    """54 of 40 examples of math: each once, 14 twice. One pass in the place of the plan's steps."""
    asked = plan("{kind: experts}", "{steps: 3, batch: 4, device: cpu, precision: fp32}")
    made = with_parts(asked, {"math": 54, "code": 10, "general": 0}, 64, epochs=1)
    (ready,) = estimate(made)
    assert ready.taken == {"math": 54, "code": 10} and (ready.steps, ready.examples) == (16, 64)
    assert made.settings["epochs"] == 1 and "steps" not in made.settings
    assert parse_plan(plan_yaml(made), home=home) == made
    assert with_parts(asked, {"math": 1}, 8).settings == asked.settings


@pytest.mark.parametrize(
    ("parts", "examples", "said"),
    [
        ({"maths": 1}, 8, "did you mean 'math'"),
        ({"math": 0}, 8, "every share is 0"),
        ({"math": 1}, 0, "expected a whole number from 1"),
    ],
)
def test_a_mixture_of_nothing_is_refused(plan, parts, examples, said):
    with pytest.raises(PlanError, match=said):
        with_parts(plan("{kind: experts}"), parts, examples)
