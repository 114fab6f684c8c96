"""DOGE's update, with its numbers written out."""

from math import exp

import numpy as np
import pytest

from influence.balance.doge import Doge, doge_scores
from influence.errors import InfluenceError

GRADIENTS = np.array([[3.0, 4.0], [0.0, 1.0]])
NORMS = [5, 1]


def test_scores_by_hand():
    # ⟨g_0, g_1⟩ = 4; the mean norm is 3.
    own = doge_scores(GRADIENTS @ GRADIENTS.T, NORMS, 0.1, own_targets=True)
    assert own == pytest.approx([0.4 / 3, 0.4 / 3])
    # Targets (1, 0) and (0, 1): 3 + 4 and 0 + 1.
    other = doge_scores(GRADIENTS @ np.eye(2), NORMS, 0.1, own_targets=False)
    assert other == pytest.approx([0.7 / 3, 0.1 / 3])


def test_scores_are_clipped_by_the_rate():
    scores = doge_scores([[-7], [900], [1]], [1, 1, 1], 0.01, own_targets=False)
    assert scores == pytest.approx([0, 0.05, 0.01])
    lower = doge_scores([[-7], [1]], [1, 1], 0.01, own_targets=False, low=-2)
    assert lower == pytest.approx([-0.02, 0.01])


def test_two_steps_by_hand():
    mixture = Doge(2, mu=0.05)
    # s/μ = (14/3, 2/3): the weights are as e⁴ to 1.
    first = mixture.update([0.7 / 3, 0.1 / 3])
    assert first == pytest.approx([exp(4) / (1 + exp(4)), 1 / (1 + exp(4))])
    # s/μ = (0, 4) takes it back.
    assert mixture.update([0, 0.2]) == pytest.approx([0.5, 0.5])
    # The start does not count.
    assert mixture.average == pytest.approx((first + 0.5) / 2)
    assert mixture.sizes(1000) == [741, 259]


def test_smoothing_by_hand():
    assert Doge(2, smoothing=0.5).update([0, 0]) == pytest.approx([0.5, 0.5])
    assert Doge(2, mu=1, smoothing=0.5).update([50, 0]) == pytest.approx([0.75, 0.25])


def test_what_does_not_fit_is_told():
    with pytest.raises(InfluenceError, match=r"norms \(1,\); expected \[domains, targets\]"):
        doge_scores([[1, 2], [3, 4]], [1], 0.1, own_targets=True)
    with pytest.raises(InfluenceError, match="Give own_targets=False"):
        doge_scores([[1, 2]], [1], 0.1, own_targets=True)
