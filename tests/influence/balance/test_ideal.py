"""IDEAL's step, with its numbers written out."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from influence.balance.ideal import ideal_step
from influence.errors import InfluenceError


def test_by_hand():
    step = ideal_step([100, 200, 50], [-0.2, 0.1, 0.05])
    assert step.beta == pytest.approx((0.15, -0.075, -0.0375))
    assert step.sizes == (115, 185, 48)  # int(48.125)
    # Σαβ = −0.03 − 0.0075 − 0.001875
    assert step.predicted_change == pytest.approx(-0.039375)


def test_another_m_by_hand():
    assert ideal_step([10, 10], [1.0, -0.5], m=0.3).sizes == (7, 11)


def test_keeping_the_total_by_hand():
    # 115 + 185 + 48.125 = 348.125; times 350/348.125 these are 115.62, 185.996 and 48.38.
    assert ideal_step([100, 200, 50], [-0.2, 0.1, 0.05], keep_total=True).sizes == (116, 186, 48)


def test_centring_by_hand():
    # Σα = 0.4; half of it is taken from each: (0.1, −0.1).
    step = ideal_step([40, 40], [0.3, 0.1], centre=True)
    assert step.beta == pytest.approx((-0.15, 0.15))
    assert step.sizes == (34, 46)
    assert step.predicted_change == pytest.approx(0.3 * -0.15 + 0.1 * 0.15)
    # By size: 3/4 and 1/4 of Σα = 0.4 leave (0.2, −0.2) of (0.5, −0.1).
    assert ideal_step([30, 10], [0.5, -0.1], centre=True).beta == pytest.approx((-0.15, 0.15))


@given(
    st.lists(st.tuples(st.integers(1, 10**5), st.floats(-1, 1)), min_size=1, max_size=8),
    st.floats(1e-6, 1e6),
)
@example([(1, 5e-324)], 1.0)
@example([(1, 1e308), (1, -1e308)], 1.0)
def test_laws(domains, scale):
    sizes, alpha = zip(*domains, strict=True)
    step = ideal_step(sizes, alpha)
    assert max(np.abs(step.beta)) == pytest.approx(0.15 if any(alpha) else 0)
    assert step.predicted_change <= 0  # a step against the gradient
    assert min(step.sizes) >= 1
    assert sum(ideal_step(sizes, alpha, keep_total=True).sizes) >= sum(sizes)
    scaled = ideal_step(sizes, [value * scale for value in alpha])
    if any(value and abs(value * scale) < 1e-300 for value in alpha):
        return  # the products are rounded to multiples of the smallest number
    assert scaled.beta == pytest.approx(step.beta)  # only ratios of influences count


def test_no_influence_changes_nothing():
    assert ideal_step([3, 5], [0, 0]).sizes == (3, 5)


def test_rounding_does_not_lose_an_example():
    assert int(100 * (1 + 0.15)) == 114
    assert ideal_step([100], [-1.0]).sizes == (115,)


def test_the_last_example_of_a_domain_stays():
    assert ideal_step([1, 100], [1.0, -0.1]).sizes[0] == 1


def test_what_cannot_be_used_is_told():
    with pytest.raises(InfluenceError, match="influences are \\[nan\\] for 1 domains"):
        ideal_step([5], [float("nan")])
    with pytest.raises(InfluenceError, match="for 2 domains"):
        ideal_step([5, 5], [1.0])
    with pytest.raises(InfluenceError, match="m is 1.5"):
        ideal_step([5], [1.0], m=1.5)
