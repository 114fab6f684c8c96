"""Influence as text: what was chosen, and what was predicted of each round and came."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluation.loss import Loss
from influence.balance.domain_influence import DomainInfluence
from influence.balance.ideal import ideal_step
from workbench.influence_runs.balance_rounds import BalanceRound
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
        BalanceRound(1, {"a": 115, "b": 185}, whole, Path("r1"), losses[1]),
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
    assert influence_tables.round_line(made()[1]).startswith("round 1: a 115, b 185; mean loss")


def test_long_texts_are_shortened_to_one_line():
    assert influence_tables.shortened("one\n two") == "one two"
    assert len(influence_tables.shortened("word " * 40)) == influence_tables.WIDE
