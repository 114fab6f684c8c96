"""karcher by numbers written out."""

from math import cos, pi, sin, sqrt

import pytest
import torch


def test_the_mean_of_two_is_half_way_at_their_mean_length(combine, close):
    close(combine("karcher", [[2.0, 0.0], [0.0, 4.0]]), [3 * sqrt(0.5), 3 * sqrt(0.5)])


def test_the_logarithms_cancel_at_the_mean(combine):
    """What defines it: Σ θ/sin θ · (u − cos θ · m) = 0."""
    generator = torch.Generator().manual_seed(4)
    stack = torch.rand(5, 7, generator=generator, dtype=torch.float64)
    mean = combine("karcher", stack.tolist(), max_iter=200, tol=1e-12)
    assert mean.norm() == pytest.approx(stack.norm(dim=1).mean().item())
    mean = mean / mean.norm()
    units = stack / stack.norm(dim=1, keepdim=True)
    dots = units @ mean
    angles = torch.acos(dots)
    logarithms = (angles / torch.sin(angles))[:, None] * (units - dots[:, None] * mean)
    assert logarithms.sum(0).abs().max() < 1e-10


def test_zeros_count_for_the_length_only(combine, close):
    close(combine("karcher", [[2.0, 0.0], [0.0, 0.0]]), [1, 0])
    close(combine("karcher", [[0.0], [0.0]]), [0])


def test_one_is_itself_and_opposites_keep_the_first(combine, close):
    close(combine("karcher", [[3.0, 4.0]]), [3, 4])
    found = combine("karcher", [[1.0, 0.0], [-1.0, 0.0]], max_iter=0)
    close(found, [1, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_numbers_the_majority_gives_the_sign_and_all_the_size(combine, dtype):
    """(0.0729 + 0.0447 + 0.0118) / 3; the second is opposite to the mean and pulls nowhere."""
    found = combine("karcher", [[0.0729], [-0.0447], [0.0118]], dtype=dtype)
    assert found.item() == pytest.approx(0.1294 / 3, rel=1e-6)
    found = combine("karcher", [[1.0], [-3.0]], dtype=dtype)
    assert found.item() == pytest.approx(2, rel=1e-6)
    found = combine("karcher", [[[0.5]], [[-0.25]], [[-0.75]]], dtype=dtype)
    assert found.item() == pytest.approx(-0.5, rel=1e-6)


@pytest.mark.parametrize("size", [2, 4, 997])
def test_multiples_of_one_tensor_keep_its_line_and_their_mean_length(combine, size):
    """1, ½ and −0.7 times a float32 tensor: 0.7v is rounded, and no longer quite in line."""
    line = torch.randn(size, generator=torch.Generator().manual_seed(size))
    stack = torch.stack([line, 0.5 * line, -0.7 * line])
    found = combine("karcher", stack.tolist(), dtype=torch.float32)
    torch.testing.assert_close(found, line * (2.2 / 3), rtol=1e-6, atol=0)


def test_a_model_that_is_nearly_opposite_pulls_with_all_its_angle(combine):
    """Between v and a direction at π − 10⁻⁴ from it, half way is at a right angle, but for 5·10⁻⁵."""
    angle = pi - 1e-4
    stack = [[1.0, 0.0], [3 * cos(angle), 3 * sin(angle)]]
    found = combine("karcher", stack, max_iter=50, tol=1e-9)
    half = torch.tensor([2 * cos(angle / 2), 2 * sin(angle / 2)], dtype=torch.float64)
    torch.testing.assert_close(found, half, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tol", [0.0, 1e-12])
def test_equal_and_opposite_models_end_the_iteration_at_any_tolerance(combine, close, tol):
    close(combine("karcher", [[3.0, 4.0], [3.0, 4.0]], tol=tol), [3, 4])
    close(combine("karcher", [[3.0, 4.0], [-3.0, -4.0]], tol=tol), [3, 4])
