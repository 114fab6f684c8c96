"""multislerp by numbers written out."""

from math import cos, pi, sin, sqrt

import pytest
import torch

from merging.errors import MergingError
from merging.methods import _contract


def test_two_at_equal_weight(combine):
    found = combine("multislerp", [[2.0, 0.0], [0.0, 2.0]])
    assert found.tolist() == pytest.approx([sqrt(2), sqrt(2)], abs=1e-7)


def test_the_tangent_is_followed_by_its_length(combine):
    """At ω 3/4 and 1/4: m = (3, 1)/√10, tangents along (−1, 3)/√10 with lengths −1/√10 and 3/√10, weighted they cancel."""
    found = combine("multislerp", [[1.0, 0.0], [0.0, 1.0]], [3.0, 1.0])
    assert found.tolist() == pytest.approx([3 / sqrt(10), 1 / sqrt(10)], abs=1e-7)


def test_raw_weights_turn_and_stretch(combine):
    """ω 1 and 2 raw: m = (1, 2)/√5; the tangents (2, −1)·2/5 and (−2, 1)/5 weighted sum to 0; the length is 1·2 + 2·2."""
    found = combine("multislerp", [[2.0, 0.0], [0.0, 2.0]], [1.0, 2.0], normalize_weights=False)
    assert found.tolist() == pytest.approx([6 / sqrt(5), 12 / sqrt(5)], abs=1e-6)


def test_three_directions(combine):
    """0°, 60° and 120° at equal ω: the mean points to 60°, and the outer two cancel."""
    stack = [[cos(a), sin(a)] for a in (0, pi / 3, 2 * pi / 3)]
    assert combine("multislerp", stack).tolist() == pytest.approx([0.5, sqrt(3) / 2], abs=1e-7)


def test_one_is_itself_and_two_opposites_are_a_line(combine, close):
    close(combine("multislerp", [[3.0, 4.0]], [0.25]), [3, 4])
    close(combine("multislerp", [[1.0, 0.0], [-3.0, 0.0]]), [-1, 0])


def test_frozen_tensors_stay(combine, close):
    close(combine("multislerp", [[0.0], [0.0], [0.0]]), [0])


def test_three_that_cancel_are_refused(combine):
    stack = [[cos(a), sin(a)] for a in (0, 2 * pi / 3, 4 * pi / 3)]
    with pytest.raises(
        MergingError, match="multislerp at model.layers.0.w: the weighted directions .* cancel"
    ):
        combine("multislerp", stack)


def test_a_sum_of_0_is_refused_where_it_divides():
    refusal = _contract.load("multislerp").refusal
    assert "sum to 0" in refusal((1.0, -1.0), {"normalize_weights": True})
    assert refusal((1.0, -1.0), {"normalize_weights": False}) is None
    assert refusal((0.0,), {"normalize_weights": True}) is None


def test_opposite_models_are_opposite_whatever_their_lengths(combine, close):
    """With eps added to its length the small one would be shorter, and their mean a direction."""
    close(combine("multislerp", [[1e-4], [-1.0]]), [-0.49995])
    close(combine("multislerp", [[3e-12], [1e-12]], [1.0, 3.0]), [1.5e-12])


def test_in_float32_too_three_that_cancel_are_refused(combine):
    """cos 120° is rounded there, and what is left of the sum is no direction."""
    stack = [[cos(a), sin(a)] for a in (0.02, 0.02 + 2 * pi / 3, 0.02 + 4 * pi / 3)]
    with pytest.raises(MergingError, match="cancel"):
        combine("multislerp", stack, dtype=torch.float32)


def test_a_mean_that_nearly_cancels_has_its_length(combine):
    """Two at π − 10⁻⁵ from each other: half way, at a right angle to both."""
    angle = pi - 1e-5
    found = combine("multislerp", [[1.0, 0.0], [3 * cos(angle), 3 * sin(angle)]])
    half = torch.tensor([2 * cos(angle / 2), 2 * sin(angle / 2)], dtype=torch.float64)
    torch.testing.assert_close(found, half, rtol=0, atol=1e-9)
