"""The sparse projection against its matrix written out, and its two ways of adding."""

import numpy as np
import pytest
import torch

from influence.projection.sparse import (
    CHUNKS,
    add_by_gather,
    add_by_slices,
    add_sparse,
    shuffle,
    shuffled,
)


def matrix(size, dimension, rows=4, seed=0, name="w"):
    """The whole matrix (size, d): what it makes of the unit vectors."""
    sums = torch.zeros(size, dimension, dtype=torch.float64)
    add_sparse(sums, torch.eye(size, dtype=torch.float64), seed, name, rows)
    return sums


@pytest.mark.parametrize(
    ("size", "dimension", "rows"), [(1, 8, 4), (13, 8, 4), (97, 12, 3), (211, 20, 1), (64, 6, 6)]
)
def test_each_coordinate_has_one_entry_of_one_sign_in_each_block(size, dimension, rows):
    blocks = matrix(size, dimension, rows).view(size, rows, -1)
    assert ((blocks != 0).sum(2) == 1).all()
    entries = blocks.sum(2)
    assert (entries == entries[:, :1]).all()
    assert torch.allclose(entries.abs(), torch.tensor(rows**-0.5, dtype=torch.float64))


def test_a_chunk_goes_to_consecutive_rows_in_the_order_of_the_shuffle():
    """Coordinates 0 to 2, 3 to 5 and 6 are the chunks of d/s = 3."""
    rows = matrix(7, 6, rows=2).abs().view(7, 2, 3).argmax(2)
    order = shuffle(0, 3)
    for chunk in (rows[:3][order], rows[3:6][order]):
        assert ((chunk - chunk[0]) % 3).tolist() == [[0, 0], [1, 1], [2, 2]]


def test_the_shuffle_is_a_permutation_and_every_seed_has_its_own():
    assert sorted(shuffle(0, 101)) == list(range(101))
    assert shuffle(0, 101).tolist() != shuffle(1, 101).tolist()
    assert shuffled(np.array([2, 0, 1]), 8).tolist() == [2, 0, 1, 5, 3, 4, 6, 7]


def test_the_matrix_never_changes():
    assert (matrix(5, 4, rows=2) * 2**0.5).round().int().tolist() == [
        [-1, 0, -1, 0],
        [0, 1, 0, 1],
        [1, 0, 1, 0],
        [0, -1, 0, -1],
        [0, -1, 0, -1],
    ]


def test_rows_and_signs_are_uniform():
    """1,000 parameters of one coordinate each: every row of 8 has 1 in 8 of the entries."""
    whole = torch.cat([matrix(1, 16, rows=2, name=f"w{number}") for number in range(1000)])
    counts = (whole != 0).view(-1, 2, 8).sum(0).double()
    assert ((counts - 125).abs() < 4 * (125 * 7 / 8) ** 0.5).all()
    assert abs(whole.sign().sum().item() / 2) < 4 * 1000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5, 7 * CHUNKS, 7 * CHUNKS + 1, 1000])
def test_gradients_times_the_matrix(size, dtype):
    gradients = torch.randn(37, size, dtype=dtype, generator=torch.Generator().manual_seed(size))
    sums = torch.full((37, 28), 0.5, dtype=dtype)
    add_sparse(sums, gradients, 0, "w", 4)
    expected = 0.5 + gradients.double() @ matrix(size, 28)
    assert torch.allclose(sums.double(), expected, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("gathered", [1, 2**24])
def test_the_way_of_accelerators_has_the_same_matrix(gathered, monkeypatch):
    monkeypatch.setattr("influence.projection.sparse.GATHERED", gathered)
    size, chunk, rows = 1009, 7, 4
    generator = np.random.default_rng(0)
    gradients = torch.from_numpy(generator.standard_normal((3, size)))
    bits = generator.integers(0, 256, 16 * 8, np.uint8)
    first = generator.integers(0, chunk, (-(-size // chunk), rows))
    order = generator.permutation(chunk)
    by_slices, by_gather = torch.zeros(2, 3, rows, chunk, dtype=torch.float64)
    add_by_slices(by_slices, gradients, bits, first, order)
    add_by_gather(by_gather, gradients, bits, first, order)
    assert by_slices.abs().max() > 1
    assert torch.allclose(by_slices, by_gather, atol=1e-12)
