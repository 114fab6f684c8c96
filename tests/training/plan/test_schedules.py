"""Schedules: the paper's counts, names that say the data, shared prefixes, refusals."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest

from training.errors import TrainingError
from training.plan.schedules import (
    LONGEST,
    Step,
    counts,
    dmt,
    experts,
    identity,
    merge_schedules,
    mixed_sequential,
    mixing,
    proportions,
    sequential,
    step,
)

SIZES = {"math": 110_142, "code": 20_022, "general": 86_060}
"""GSM8K RFT, Code Alpaca, ShareGPT."""
KS = [Fraction(1, 4**power) for power in range(5)]
PAPER = {
    "math": [110_142, 27_535, 6_883, 1_720, 430],
    "code": [20_022, 5_005, 1_251, 312, 78],
    "general": [86_060, 21_515, 5_378, 1_344, 336],
}
"""arXiv 2310.05492: source -> examples at k = 1, 1/4, 1/16, 1/64, 1/256."""
ONE = Fraction(1)


def by_label(steps, sizes=SIZES):
    return {step.label: counts(step, sizes) for step in steps}


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize("power", range(5))
def test_the_papers_counts(source, power):
    assert counts(step({source: KS[power]}), SIZES) == {source: PAPER[source][power]}


def test_rq1_each_source_alone_at_each_proportion():
    study = proportions(SIZES, KS, single=True)
    assert len(merge_schedules([study])) == 15
    found = by_label(study)
    assert found["1/16 code"] == {"code": 1_251}
    assert [found[f"{k} math"]["math"] for k in KS] == PAPER["math"]


def test_rq2_all_sources_at_the_same_proportion():
    assert [counts(step, SIZES) for step in proportions(SIZES, KS)] == [
        {name: PAPER[name][power] for name in sorted(SIZES)} for power in range(5)
    ]


def test_rq3_one_side_whole_or_at_a_64th_the_other_at_k():
    special = proportions(["math", "code"], KS, hold={"general": ONE})
    assert counts(special[4], SIZES) == {"math": 430, "code": 78, "general": 86_060}
    general = proportions(["general"], KS, hold={"math": ONE, "code": ONE})
    assert counts(general[3], SIZES) == {"math": 110_142, "code": 20_022, "general": 1_344}
    scarce = proportions(["math", "code"], KS, hold={"general": Fraction(1, 64)})
    assert counts(scarce[1], SIZES) == {"math": 27_535, "code": 5_005, "general": 1_344}
    assert scarce[1].label == "1/64 general, 1/4 math, 1/4 code"
    assert special[0] == replace(
        proportions(SIZES, [ONE])[0], label=special[0].label
    )  # k = 1: RQ2's first run
    assert (
        len(merge_schedules([special, general, scarce])) == 15 - 2
    )  # all whole, and general alone at 1/64, belong to two studies


def test_dmt_and_its_k():
    first, *rest = dmt(["math", "code"], ["general"], [Fraction(0), *reversed(KS)])
    assert counts(first, SIZES) == {"code": 20_022, "math": 110_142}
    assert first.parent is None and {step.parent for step in rest} == {first.name} == {"code.math"}
    assert counts(rest[0], SIZES) == {"general": 86_060}
    assert counts(rest[1], SIZES) == {"general": 86_060, "math": 430, "code": 78}
    assert [step.label for step in rest[:2]] == ["mixed sequential", "DMT, k = 1/256"]
    assert rest[1].name == "code.math--code-1of256.general.math-1of256"


def test_no_replay_is_mixed_sequential():
    assert dmt(["code", "math"], ["general"], [Fraction(0)]) == mixed_sequential(
        ["math", "code"], ["general"]
    )


def test_sequential_goes_on_from_the_step_before():
    steps = sequential(["code", "math", "general"])
    assert [step.name for step in steps] == ["code", "code--math", "code--math--general"]
    assert [step.parent for step in steps] == [None, "code", "code--math"]
    assert steps[1].label == "sequential, 2 of 3: math"


def test_schedules_that_begin_alike_hold_the_same_step():
    plans = [
        experts(["math", "code"]),
        sequential(["code", "math"]),
        mixed_sequential(["math"], ["code"]),
    ]
    plans += [dmt(["math"], ["code"], KS[3:]), dmt(["math"], ["code"], KS[4:])]
    steps = merge_schedules(plans)
    assert [step.name for step in steps] == [
        "math", "code", "code--math", "math--code", "math--code.math-1of64", "math--code.math-1of256",
    ]  # fmt: skip
    places = {step.name: number for number, step in enumerate(steps)}
    assert all(step.parent is None or places[step.parent] < places[step.name] for step in steps)


def test_settings_belong_to_a_source_a_stage_or_all():
    assert [dict(step.settings) for step in experts(["math", "code"], {"code": {"steps": 5}})] == [
        {},
        {"steps": 5},
    ]
    assert [
        dict(step.settings) for step in sequential(["math", "code"], {"math": {"steps": 3}})
    ] == [{"steps": 3}, {}]
    stages = {"special": {"epochs": 3}, "general": {"epochs": 2}}
    assert [dict(step.settings) for step in dmt(["math"], ["code"], KS[1:3], stages)] == [
        {"epochs": 3}, {"epochs": 2}, {"epochs": 2},
    ]  # fmt: skip
    assert mixing({"math": ONE}, settings={"rate": 0.1})[0].settings == {"rate": 0.1}
    study = proportions(["math", "code"], KS[:1], single=True, each={"code": {"epochs": 7}})
    assert [dict(step.settings) for step in study] == [{}, {"epochs": 7}]


def test_one_name_for_two_things_is_refused():
    with pytest.raises(
        TrainingError,
        match=r'two steps are called "code" \(expert code; sequential, 1 of 1: code\)',
    ):
        merge_schedules([experts(["code"]), sequential(["code"], {"code": {"steps": 1}})])


def test_a_mixture_in_parts_by_hand():
    parts = {"math": Fraction(1, 2), "code": Fraction(3, 10), "general": Fraction(1, 5)}
    natural = mixing(parts, parts=True)[0]
    # math allows 220,284 in all, code 66,740, general 430,300: code is what limits
    assert counts(natural, SIZES) == {"math": 33_370, "code": 20_022, "general": 13_348}
    given = mixing(parts, parts=True, examples=100_000)[0]
    assert counts(given, SIZES) == {
        "math": 50_000,
        "code": 30_000,
        "general": 20_000,
    }  # code is repeated
    doubled = mixing({name: 2 * part for name, part in parts.items()}, parts=True)[0]
    assert counts(doubled, SIZES) == counts(natural, SIZES)  # only their relation counts
    assert {natural.name, given.name, step(parts).name} == {
        "mix.code-3of10.general-1of5.math-1of2",
        "mix.code-3of10.general-1of5.math-1of2.of-100000",
        "code-3of10.general-1of5.math-1of2",
    }


def test_shares_above_one_repeat():
    assert counts(mixing({"code": Fraction(5, 2)})[0], {"code": 11}) == {"code": 27}


def test_a_share_that_comes_to_nothing_is_said_with_its_numbers():
    with pytest.raises(
        TrainingError, match='DMT, k = 1/256: 1/256 of "code", which has 255 examples, is none'
    ):
        counts(dmt(["code"], ["math"], KS[4:])[1], {"code": 255, "math": 9})
    assert counts(dmt(["code"], ["math"], KS[4:])[1], {"code": 256, "math": 9}) == {
        "code": 1,
        "math": 9,
    }


def test_a_long_name_is_cut_and_stays_its_own():
    many = [f"source{number}" for number in range(30)]
    one, other = step(dict.fromkeys(many, ONE)), step(dict.fromkeys(many[:-1], ONE))
    assert len(one.name) == len(other.name) == LONGEST
    assert one.name != other.name
    assert one.name == step(dict.fromkeys(reversed(many), ONE)).name


def test_an_identity_follows_parent_data_and_settings_and_nothing_else():
    facts = ("base", {"examples": "d1", "groups": "d2"}, {"rate": 0.1, "seed": 0})
    assert identity(*facts) == identity(
        "base", {"groups": "d2", "examples": "d1"}, {"seed": 0, "rate": 0.1}
    )
    changed = [
        ("other", facts[1], facts[2]),
        (facts[0], {"examples": "d1"}, facts[2]),
        (facts[0], {**facts[1], "examples": "d3"}, facts[2]),
        (facts[0], facts[1], {"rate": 0.1, "seed": 1}),
    ]
    found = [identity(*facts), *(identity(*change) for change in changed)]
    assert len(set(found)) == 5 and all(len(each) == 64 for each in found)


def test_the_whole_is_labelled_by_its_name_when_nothing_says_more():
    assert step({"math": ONE, "code": Fraction(0)}) == Step("math", {"math": ONE}, None, "math")


def test_fewer_examples_as_k_falls():
    taken = [sum(counts(each, SIZES).values()) for each in proportions(SIZES, KS)]
    assert all(more > less for more, less in pairwise(taken))
