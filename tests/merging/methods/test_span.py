"""Lengths, cosines and coordinates of vectors, at chunks of any size, near 0 and near infinity."""

import sys
from math import pi

import pytest
import torch

from merging.methods import _span, _survey
from merging.methods._survey import angles
from merging.methods._values import Site


@pytest.fixture(autouse=True)
def chunks_of_five(monkeypatch):
    monkeypatch.setattr(sys.modules["merging.methods._chunks"], "CHUNK", 5)
    for module in (_span, _survey):
        monkeypatch.setattr(module, "CHUNK", 5)


def site(stack):
    return Site("w", torch.zeros(stack.shape[1:], dtype=stack.dtype))


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 1, 23), (3, 23, 1), (2, 7, 11), (4, 2, 3)])
def test_directions_are_those_of_a_plain_computation(shape):
    stack = normal(*shape)
    lengths, cosines = _span.directions(stack)
    torch.testing.assert_close(lengths, stack.norm(dim=2))
    units = (stack / stack.norm(dim=2, keepdim=True)).transpose(0, 1)
    torch.testing.assert_close(cosines, units @ units.mT)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1e30, torch.float32),
        (1e-40, torch.float32),
        (1e200, torch.float64),
        (1e-200, torch.float64),
        (2.0**-1070, torch.float64),
    ],
)
def test_squares_need_not_be_in_range(size, dtype):
    stack = torch.tensor([[[3.0, 4.0]], [[0.0, -2.0]], [[0.0, 0.0]]], dtype=dtype) * size
    lengths, cosines = _span.directions(stack)
    wanted = torch.tensor([5.0, 2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(lengths[:, 0] / size, wanted, rtol=1e-4, atol=0)
    wanted = torch.tensor([[1, -0.8, 0], [-0.8, 1, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(cosines[0], wanted, rtol=1e-4, atol=0)
    assert _span.length(stack[0]) / size == pytest.approx(5, rel=1e-4)
    assert _span.length([stack[2, 0]]) == _span.length([]) == 0


def test_coordinates_have_the_cosines():
    stack = normal(3, 11)
    found = angles(stack, site(stack))
    for units in (
        _span.coordinates(found.cosines),
        _span.exact_coordinates(stack, site(stack), found.lengths),
    ):
        torch.testing.assert_close(units @ units.T, found.cosines)


def test_exact_coordinates_keep_an_angle_that_the_cosines_lose():
    """1 − cos of 10⁻⁹ is below the spacing of float64; the sum of nearly opposite units is 10⁻⁹."""
    stack = torch.tensor([[1.0, 0.0], [-1.0, 1e-9], [0.0, 0.0]], dtype=torch.float64)
    units = _span.exact_coordinates(stack, site(stack), angles(stack, site(stack)).lengths)
    assert float(units.sum(0).norm()) == pytest.approx(1e-9, rel=1e-6)
    assert not units[2].any()


def test_a_sum_keeps_digits_that_float32_loses():
    """10⁶ · (1 + 10⁻⁶ − 1), of float32 values whose difference is exact."""
    near = torch.tensor(1 + 2.0**-20)
    stack = torch.stack([near, torch.tensor(1.0)]).view(2, 1, 1).repeat(1, 3, 2)
    factors = torch.tensor([[3e6], [-3e6]], dtype=torch.float64).repeat(1, 3)
    found = _span.sum_in_float64(stack, factors)
    assert found.shape == (3, 2) and found.dtype == torch.float32
    assert found.unique().item() == pytest.approx(3e6 * 2.0**-20, rel=1e-7)


def test_the_threshold_is_above_the_rounding_of_multiples_to_float32():
    """So they count as in one line, and a degree does not."""
    line = normal(101).float()
    stack = torch.stack([line, -0.7 * line])
    found = angles(stack, site(stack))
    units = _span.exact_coordinates(stack, site(stack), found.lengths)
    assert 0 < float(units.sum(0).norm()) < _span.ROUNDING < pi / 180
    assert found.cosines[0, 1] == pytest.approx(-1)
