"""The bullet chart's arithmetic is right."""

from typing import NamedTuple

import pytest

from workbench.plots import bullets


class Loss(NamedTuple):
    value: float
    stderr: float
    n: int
    sums: tuple[float, ...] = ()


def test_a_worked_example_of_the_recovered_gain():
    row = bullets.gain("sni", Loss(0.4, 0.04, 50), Loss(1.0, 0.1, 50), Loss(0.2, 0.1, 50))
    assert row.share == pytest.approx(0.75)
    assert row.share_stderr is None  # nothing is known of single examples


def test_the_error_of_a_share_compares_the_models_example_by_example():
    # Gained (2, 4) of (1, 3) possible: the worked example of evaluation.loss.
    base, here, expert = (Loss(0, 9, 2, sums) for sums in ((4.0, 8.0), (2.0, 4.0), (3.0, 5.0)))
    row = bullets.gain("a", here, base._replace(value=3.0), expert._replace(value=2.0))
    assert row.share_stderr == 0.25
    # Examples of very different difficulty, of each of which half is gained: no doubt is left.
    base, here, expert = (
        Loss(0, 9, 3, sums) for sums in ((1, 10, 100), (0.75, 7.5, 75), (0.5, 5, 50))
    )
    row = bullets.gain("a", here, base._replace(value=2.0), expert._replace(value=1.0))
    assert row.share_stderr == pytest.approx(0.0, abs=1e-12)


def test_below_the_base_is_negative_and_no_expert_gives_no_share():
    assert bullets.gain(
        "a", Loss(1.2, 0.0, 5), Loss(1.0, 0, 5), Loss(0.5, 0, 5)
    ).share == pytest.approx(-0.4)
    assert bullets.gain("a", Loss(1.2, 0.0, 5), Loss(1.0, 0, 5), None).share is None
    worse = bullets.gain(
        "a", Loss(0.9, 0.0, 5), Loss(1.0, 0, 5), Loss(1.1, 0, 5)
    )  # an expert worse than the base
    assert worse.share is None and worse.loss == 0.9


def test_gains_keep_the_order_and_skip_what_has_no_base():
    loss = Loss(1.0, 0.1, 3)
    rows = bullets.gains({"b": loss, "c": loss, "a": loss}, {"a": loss, "b": loss}, {})
    assert [row.dataset for row in rows] == ["b", "a"]
