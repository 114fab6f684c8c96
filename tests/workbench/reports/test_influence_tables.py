"""Influence as text: what was chosen, and what was predicted of each round and came."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluation.loss import Loss
from influence.balance.domain_influence import DomainInfluence
from influence.balance.ideal import ideal_step
from influence.balance.weight_trace import WeightTrace
from workbench.influence_runs.measured_mixture import BalanceRound, ProxyRun
from workbench.reports import influence_tables


def made(stationarity=0.05, halves=((-0.2, 0.1), (-0.19, 0.12))) -> list[BalanceRound]:
    """Two rounds on a and b, by the worked numbers of the tests below."""
    alpha, plan = np.array([[-0.2, 0.1]]), SimpleNamespace()
    found = DomainInfluence(
        ("a", "b"), ("ref",), (100, 200), alpha, np.array(halves), stationarity, ()
    )
    step = ideal_step([100, 200], alpha[0])
    losses = [(Loss("ref", value, 0.01, 4, 9),) for value in (1.5, 1.46)]
    whole: Any = plan
    return [
        BalanceRound(0, {"a": 100, "b": 200}, whole, Path("r0"), losses[0], found, step),
        BalanceRound(1, {"a": 115, "b": 185}, whole, Path("r1"), losses[1], method="ideal"),
    ]


def test_rounds_show_sizes_losses_and_prediction_against_measurement():
    text = influence_tables.rounds(made())
    lines = [line.split() for line in text.splitlines()]
    assert ["a", "100", "115"] in lines and ["b", "200", "185"] in lines
    assert ["mean", "loss", "1.5000", "1.4600"] in lines
    # β = (0.15, −0.075), so Σαβ = −0.03 − 0.0075; and 1.46 − 1.5.
    assert "predicted change of the mean loss -0.0375, measured -0.0400" in text
    assert "α a -0.2000, b +0.1000" in text
    assert "far from an optimum" not in text and "disagree" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stationarity": 0.5}, "far from an optimum of its training loss"),
        ({"halves": ((-0.2, 0.1), (0.2, -0.1))}, "the two halves of the examples disagree"),
        ({"halves": ((np.nan, np.nan), (0.2, -0.1))}, "disagree"),
    ],
)
def test_what_makes_an_influence_doubtful_is_said(change, said):
    assert said in influence_tables.rounds(made(**change))


def test_rounds_as_data_hold_what_the_text_says():
    first, last = influence_tables.rounds_as_data(made())["rounds"]
    assert first["alpha"] == {"a": -0.2, "b": 0.1}
    assert first["predicted_change"] == pytest.approx(-0.0375)
    assert last["mean"] == 1.46 and "alpha" not in last
    assert influence_tables.round_line(made()[1]).startswith("ideal 1: a 115, b 185; mean loss")


def proposed() -> list[BalanceRound]:
    """A start of 900 tokens, and what a proxy of DoReMi proposed in two steps."""
    first, ideal = made()
    trace = WeightTrace(("a", "b"), np.array([[0.5, 0.5], [0.4, 0.6], [0.3, 0.7]]), True)
    proxy = ProxyRun(trace, Path("out/doremi.csv"), 700, 650)
    losses = (Loss("ref", 1.25, 0.01, 4, 9),)
    own: Any = {"method": "doremi", "tokens": 800, "proxy": proxy}
    second = BalanceRound(1, {"a": 120, "b": 180}, ideal.mixture, Path("d"), losses, **own)
    return [replace(first, tokens=900), second, replace(ideal, tokens=850)]


def test_proposals_show_their_weights_and_their_cost():
    text = influence_tables.rounds(proposed())
    lines = [line.split() for line in text.splitlines()]
    assert ["examples", "start", "doremi", "ideal", "1"] in lines
    assert ["tokens", "trained", "900", "800", "850"] in lines
    assert (
        "doremi: weights a 0.500, b 0.500 at the start, a 0.300, b 0.700 after 2 steps; the mean "
        "is proposed, a 0.400, b 0.600. All of them: out/doremi.csv" in text
    )
    assert (
        "doremi: 3 trainings of 2,400 tokens (start 900, proxy 700, doremi 800); the start, its "
        "reference, read 650 without training" in text
    )
    assert "ideal: 2 trainings of 1,750 tokens (start 900, ideal 1 850)" in text
    # What IDEAL predicted is of its own rounds, whatever stands between them.
    assert "predicted change of the mean loss -0.0375, measured -0.0400" in text


def test_proposals_as_data():
    start, doremi, _ = influence_tables.rounds_as_data(proposed())["rounds"]
    assert (start["method"], doremi["method"]) == ("start", "doremi")
    assert doremi["weights"]["start"] == {"a": 0.5, "b": 0.5}
    assert doremi["weights"]["end"] == {"a": 0.3, "b": 0.7}
    assert doremi["weights"]["mean"] == pytest.approx({"a": 0.4, "b": 0.6})
    assert doremi["proxy"]["steps"] == 2 and "weights" not in start


def test_long_texts_are_shortened_to_one_line():
    assert influence_tables.shortened("one\n two") == "one two"
    assert len(influence_tables.shortened("word " * 40)) == influence_tables.WIDE
