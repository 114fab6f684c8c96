"""The compiled loops against numpy and torch bit by bit, and both against plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging.methods import _loops, _sums

PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
"""The first numbers of SplitMix64 for seed 1234567, as other implementations print them."""
SIZES = [0, 1, 5, 511, 512, 513, 3000]


@pytest.fixture
def without_c(monkeypatch):
    """Runs a function as on a machine without a C compiler."""

    def of(function, *values, **more):
        with monkeypatch.context() as patched:
            patched.setattr(_loops, "library", lambda: None)
            return function(*values, **more)

    return of


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_loops_are_compiled_here():
    """Else the tests below would compare numpy with itself."""
    assert _loops.library() is not None
    assert _loops.compiled_for(torch.zeros(2)) and not _loops.compiled_for(torch.zeros(2).double())
    assert not _loops.compiled_for(torch.zeros(4, 4).T)


def test_without_a_compiled_file_there_is_no_library(monkeypatch):
    monkeypatch.setattr(_loops, "EXTENSION_SUFFIXES", [".not-there"])
    assert _loops.library.__wrapped__() is None


def test_the_stream_is_the_published_one_from_any_place():
    assert _loops.stream(1234567, 0, 5).tolist() == PUBLISHED
    assert _loops.stream(1234567, 2, 3).tolist() == PUBLISHED[2:]
    large = _loops.stream(2**63 - 1, 2**40, 3)
    assert large.tolist() == _loops.stream(2**63 - 1, 2**40 - 5, 8)[5:].tolist()


def test_numbers_are_even_and_below_1():
    drawn = _loops.drawn_from(_loops.stream(5, 0, 40_000))
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.histogram(drawn, 10, (0, 1))[0]
    assert np.abs(counts - 4000).max() < 5 * 60  # the deviation of a count is 60
    top = _loops.drawn_from(np.array([2**64 - 1], np.uint64))
    assert top.item() == 1 - 2.0**-53


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", [1e-3, 0.5, 0.999])
def test_masks_are_those_of_the_stream(size, density, without_c):
    values = normal(size)
    found, plain = values.clone(), values.clone()
    _loops.drop_at_random(found, density, 2**62 + 7, 2**33)
    without_c(_loops.drop_at_random, plain, density, 2**62 + 7, 2**33)
    drawn = _loops.drawn_from(_loops.stream(2**62 + 7, 2**33, size))
    assert torch.equal(found, plain)
    assert torch.equal(found, values * torch.from_numpy(drawn < density))


@given(st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), max_size=4), st.integers(0))
def test_masks_by_rank_are_those_of_a_stable_sort(rows, seed):
    values = torch.tensor(rows, dtype=torch.float32).view(-1, 5)
    seed %= 2**63
    wanted = values.clone()
    drawn = _loops.drawn_from(_loops.stream(seed, 10, values.numel())).reshape(values.shape)
    for row, entries in enumerate(values.tolist()):
        order = sorted(range(5), key=lambda place: abs(entries[place]))
        for rank, place in enumerate(order):
            if not drawn[row, place] < 0.2 + (0.7 - 0.2) / 4 * rank:
                wanted[row, place] = 0
    found = values.clone()
    _loops.drop_by_rank(found, 0.2, 0.7, seed, 10)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("shape", [(3, 1), (1, 1), (2, 513), (7, 4000), (2, 0)])
def test_masks_by_rank_are_the_same_without_the_compiled_loop(shape, without_c):
    values = normal(*shape) * 10.0 ** normal(*shape, seed=2)
    found, plain = values.clone(), values.clone()
    _loops.drop_by_rank(found, 0.3, 0.8, 3, 4)
    without_c(_loops.drop_by_rank, plain, 0.3, 0.8, 3, 4)
    assert torch.equal(found, plain)


@pytest.mark.parametrize("size", SIZES)
def test_counts_are_those_of_the_bits(size, without_c):
    values = normal(size)
    values[size // 2 :] *= 0  # many of one size
    bits = values.abs().view(torch.int32).numpy()
    for count in (
        lambda function, *given: function(*given),
        lambda *given: without_c(*given),
    ):
        upper = np.zeros(2**16, np.int64)
        count(_loops.count_upper, values, upper)
        assert np.array_equal(upper, np.bincount(bits >> 15, minlength=2**16))
        for end in {0, *(bits[:1] >> 15).tolist()}:
            lower = np.ones(2**15, np.int64)
            count(_loops.count_lower, values, end, lower)
            wanted = np.bincount(bits[bits >> 15 == end] & 0x7FFF, minlength=2**15)
            assert np.array_equal(lower, wanted + 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("elect", ["weighted", "unweighted"])
@pytest.mark.parametrize("divide_by", ["weight", "count", None])
@pytest.mark.parametrize("omegas", [[0.5, 1.5, 0.25, 2.0, 1.0], [0.3, 0.6, -0.9, 0.3, -0.3], [2.0]])
def test_elected_sums_have_the_same_bits(size, elect, divide_by, omegas, without_c, bits):
    stack = normal(len(omegas), size).mul(4).round_()  # zeros and ties are frequent
    stack[:, size // 2 :] = normal(len(omegas), size - size // 2)
    how = {
        "normalize": divide_by is not None,
        "divide_by": divide_by or "weight",
        "elect": elect,
        "lambda_": 0.7,
    }
    weights = torch.tensor(omegas)
    found = _sums.sum_agreeing(stack.clone(), weights, **how)
    assert bits(found, without_c(_sums.sum_agreeing, stack.clone(), weights, **how))


def test_values_that_are_no_numbers_stay_visible(without_c):
    """A merge refuses them at the end, so they must not vanish on the way."""
    stack = torch.tensor([[1.0, float("nan"), float("inf")], [1.0, 1.0, -1.0]])
    how = {"normalize": True, "elect": "weighted", "divide_by": "weight"}
    found = _sums.sum_agreeing(stack.clone(), torch.ones(2), **how)
    assert found[0] == 1 and found[1].isnan() and not found[2].isfinite()
