"""The dense projection against its matrix written out."""

import numpy as np
import pytest
import torch

from influence.projection.rademacher import add_rademacher
from influence.projection.signs import draw_bits, signs_of, stream


def matrix(size, dimension, name="w"):
    sums = torch.zeros(size, dimension, dtype=torch.float64)
    add_rademacher(sums, torch.eye(size, dtype=torch.float64), 0, name)
    return sums


def test_every_entry_has_the_same_size_and_half_are_negative():
    whole = matrix(199, 100)
    assert torch.allclose(whole.abs(), torch.tensor(0.1, dtype=torch.float64))
    assert abs(whole.sign().sum().item()) < 4 * (199 * 100) ** 0.5


def test_the_matrix_never_changes():
    assert (matrix(2, 4) * 2).int().tolist() == [[-1, 1, 1, -1], [-1, -1, 1, 1]]


def test_each_coordinate_has_the_next_whole_words_of_the_stream():
    signs = signs_of(draw_bits(stream(0, "w", "signs"), 6), 1.0, np.float64).reshape(6, 64)
    assert np.array_equal(matrix(6, 64) * 8, signs)
    assert np.allclose(matrix(3, 100) * 10, signs.reshape(3, 128)[:, :100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [1, 70, 2**20])
def test_gradients_times_the_matrix_whatever_the_block(block, dtype, monkeypatch):
    expected = matrix(101, 70)
    monkeypatch.setattr("influence.projection.rademacher.BLOCK", block)
    gradients = torch.randn(3, 101, dtype=dtype, generator=torch.Generator().manual_seed(0))
    sums = torch.full((3, 70), 0.5, dtype=dtype)
    add_rademacher(sums, gradients, 0, "w")
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(sums.double(), 0.5 + gradients.double() @ expected, atol=tolerance)
