"""Lengths and angles of whole tensors, chunk by chunk, near 0 and near infinity."""

import sys

import pytest
import torch

from merging.methods import _survey
from merging.methods._survey import angles, products, surveyed
from merging.methods._values import Site


@pytest.fixture(autouse=True)
def chunks_of_five(monkeypatch):
    monkeypatch.setattr(sys.modules["merging.methods._chunks"], "CHUNK", 5)
    monkeypatch.setattr(_survey, "CHUNK", 5)
    monkeypatch.setattr(_survey, "_TILE", 3)


def normal(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def site(stack, **more):
    return Site("w", torch.ones(stack.shape[1:], dtype=stack.dtype), **more)


def units_of(rows):
    return torch.nn.functional.normalize(rows.double(), dim=1)


@pytest.mark.parametrize("shape", [(3, 23), (2, 3, 4), (1, 5), (4, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths_and_cosines_are_those_of_a_plain_computation(shape, dtype):
    stack = normal(*shape, dtype=dtype)
    found, rows = angles(stack, site(stack)), stack.flatten(1)
    torch.testing.assert_close(found.lengths, rows.double().norm(dim=1), rtol=1e-14, atol=0)
    torch.testing.assert_close(
        found.cosines, units_of(rows) @ units_of(rows).T, rtol=1e-13, atol=1e-15
    )


def test_the_base_is_the_first_row_if_it_is_asked_for():
    stack = torch.tensor([[3.0, 0.0, 4.0]])
    found = angles(stack, Site("w", torch.tensor([0.0, 2.0, 0.0])), base=True)
    assert found.lengths.tolist() == [2.0, 5.0] and found.cosines.tolist() == [[1, 0], [0, 1]]


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
    """The second chunk has other exponents than the first, and zeros have none."""
    rows = [[3.0, 0, 0, 0, 0, 4.0], [0, 0, 0, 0, 0, -2.0], [0.0] * 6]
    stack = torch.tensor(rows, dtype=dtype) * size
    found = angles(stack, site(stack))
    wanted = torch.tensor([5.0, 2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found.lengths / size, wanted, rtol=1e-4, atol=0)
    wanted = torch.tensor([[1, -0.8, 0], [-0.8, 1, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found.cosines, wanted, rtol=1e-4, atol=0)


def test_numbers_of_very_different_sizes_add_up():
    """1e300 in one chunk hides nothing of 1e-300 in another, which is below its rounding."""
    stack = torch.zeros(2, 10, dtype=torch.float64)
    stack[0, 0], stack[0, 9], stack[1, 9] = 1e300, 1e-300, 1e-300
    found = angles(stack, site(stack))
    assert found.lengths.tolist() == [1e300, 1e-300] and found.cosines[0, 1] == 0


def test_products_keep_digits_that_float32_loses():
    near = torch.tensor([[1 + 2.0**-20, 1.0]])
    assert products(near).tolist() == [[1 + (1 + 2.0**-20) ** 2, 0.0]]


def test_a_stack_is_read_chunk_by_chunk_with_its_places():
    stack, seen = normal(2, 4, 3), []

    def of(chunk):
        seen.append((chunk.start, chunk.values.shape))
        return chunk.values.sum(1)

    found = surveyed(stack, site(stack), ("sums",), of, lambda parts: torch.stack(parts).sum(0))
    torch.testing.assert_close(found, stack.flatten(1).sum(1))
    assert seen == [(0, (2, 5)), (5, (2, 5)), (10, (2, 2))]


def test_a_block_asks_for_the_whole():
    stack = normal(2, 3)
    asked = site(stack, survey=lambda key, of, join, unit: (key, join([stack]), unit))
    assert surveyed(stack, asked, ("sums", 1), products, len, 5) == (("sums", 1), 1, 5)


@pytest.mark.parametrize(
    ("unit", "sizes"), [(1, [5, 5, 2]), (3, [3] * 4), (6, [6, 6]), (0, [5, 5, 2])]
)
def test_chunks_are_whole_rows_if_asked_for(unit, sizes):
    stack = normal(2, 12)
    found = surveyed(stack, site(stack), (), lambda chunk: chunk.values, list, unit)
    assert [part.shape[1] for part in found] == sizes
