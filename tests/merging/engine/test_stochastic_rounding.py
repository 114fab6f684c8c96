"""Stochastic rounding: unbiased, to neighbours only, and the same bits whatever the blocks."""

import math

import pytest
import torch

from merging.engine import stochastic_rounding as module
from merging.engine.stochastic_rounding import round_stochastically

PAIRS = [
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.float64, torch.bfloat16),
    (torch.float64, torch.float16),
    (torch.float64, torch.float32),
]


def neighbours(values, dtype):
    """The dtype's two values around each value, in float64, by a search among all its values."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    grid = patterns.view(dtype).double()
    grid = torch.unique(grid[torch.isfinite(grid)])
    above = torch.searchsorted(grid, values.double())
    exact = grid[above] == values.double()
    return grid[torch.where(exact, above, above - 1)], grid[above]


def test_a_tenth_of_a_step_moves_in_one_case_of_ten():
    step = 2.0**-7  # of bfloat16 between 1 and 2
    values = torch.full((100_003,), 1 + 0.1 * step)
    rounded = round_stochastically(values, torch.bfloat16, seed=0, name="w").double()
    assert set(rounded.tolist()) == {1.0, 1 + step}
    moved = float((rounded > 1).double().mean())
    assert moved == pytest.approx(0.1, abs=5 * math.sqrt(0.1 * 0.9 / 100_003))
    assert set(values.to(torch.bfloat16).tolist()) == {
        1.0
    }  # rounding to nearest takes it away altogether


@pytest.mark.parametrize(("wide", "dtype"), PAIRS[:4], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-5, 3e4, 1e-7])  # the last two reach the ends of float16
def test_only_neighbours_are_taken_and_the_mean_is_exact(wide, dtype, scale):
    generator = torch.Generator().manual_seed(1)
    few = (
        (torch.randn(101, generator=generator, dtype=torch.float64) * scale)
        .clamp(-65504, 65504)
        .to(wide)
    )
    low, high = neighbours(few, dtype)
    draws = 4_001
    rounded = (
        round_stochastically(few.repeat_interleave(draws), dtype, seed=3, name="w")
        .double()
        .view(101, draws)
    )
    assert ((rounded == low[:, None]) | (rounded == high[:, None])).all()
    gap = (high - low).clamp(min=1e-300)
    share = (few.double() - low) / gap
    found = (rounded - low[:, None]).mean(1) / gap
    assert (found - share).abs().max() < 5 * 0.5 / math.sqrt(draws)
    assert abs(float((found - share).mean())) < 5 * 0.5 / math.sqrt(draws * 101)


def test_float64_to_float32_takes_neighbours_too():
    value = 1 + 2.0**-25  # a quarter of the step of float32
    rounded = round_stochastically(
        torch.full((40_009,), value, dtype=torch.float64), torch.float32, seed=0, name="w"
    ).double()
    assert set(rounded.tolist()) == {1.0, 1 + 2.0**-23}
    assert float((rounded > 1).double().mean()) == pytest.approx(
        0.25, abs=5 * math.sqrt(0.25 * 0.75 / 40_009)
    )


@pytest.mark.parametrize(("wide", "dtype"), PAIRS, ids=str)
def test_what_the_dtype_holds_stays_bit_for_bit(wide, dtype, bits):
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    every = patterns.view(dtype) if dtype.itemsize == 2 else torch.randn(1_009).to(dtype)
    every = torch.cat(
        [every[~torch.isnan(every)], torch.tensor([0.0, -0.0, math.inf, -math.inf], dtype=dtype)]
    )
    assert bits(round_stochastically(every.to(wide), dtype, seed=5, name="w"), every)
    nan = round_stochastically(torch.tensor([math.nan], dtype=wide), dtype, seed=5, name="w")
    assert nan.dtype == dtype and nan.isnan().all()


def test_what_the_dtype_holds_stays_even_at_a_draw_of_zero(monkeypatch):
    monkeypatch.setattr(module, "_draws", lambda like, *where: torch.zeros_like(like))
    values = torch.tensor([0.0, 1.0, -1.5, 1 + 2.0**-9, -1 - 2.0**-9])
    rounded = round_stochastically(values, torch.bfloat16, seed=0, name="w").tolist()
    assert rounded == [0.0, 1.0, -1.5, 1 + 2.0**-7, -1 - 2.0**-7]


def test_the_same_dtype_is_no_rounding(bits):
    values = torch.randn(11)
    assert bits(round_stochastically(values, torch.float32, seed=0, name="w"), values)


@pytest.mark.parametrize(("wide", "dtype"), PAIRS, ids=str)
def test_nothing_becomes_infinite_that_rounding_to_nearest_keeps(wide, dtype):
    greatest = torch.finfo(dtype).max
    gap = (
        greatest
        - torch.nextafter(torch.tensor(greatest, dtype=torch.float32), torch.tensor(0.0)).item()
    )
    step = {torch.float16: 32.0, torch.bfloat16: 2.0**120, torch.float32: gap}[dtype]
    inside = torch.full((1_009,), greatest + 0.45 * step, dtype=torch.float64).to(wide)
    both = torch.cat([inside, -inside])
    assert round_stochastically(both, dtype, seed=0, name="w").double().abs().unique().tolist() == [
        greatest
    ]
    if not (wide == torch.float32 and dtype == torch.bfloat16):
        beyond = torch.full((13,), greatest + 0.55 * step, dtype=torch.float64).to(wide)
        assert torch.isinf(round_stochastically(beyond, dtype, seed=0, name="w")).all()


@pytest.mark.parametrize("size", [1, 7, 64, 101, 1_000])
def test_the_bits_do_not_depend_on_the_blocks(size, monkeypatch, bits):
    monkeypatch.setattr(module, "CHUNK", 64)
    values = torch.randn(1_009, generator=torch.Generator().manual_seed(2))
    whole = round_stochastically(values, torch.bfloat16, seed=7, name="w")
    parts = [
        round_stochastically(
            values[start : start + size], torch.bfloat16, seed=7, name="w", start=start
        )
        for start in reversed(range(0, 1_009, size))
    ]
    assert bits(torch.cat(parts[::-1]), whole)


def test_the_bits_do_not_depend_on_the_blocks_at_the_real_chunk_size(bits):
    values = torch.randn(2 * module.CHUNK + 31, generator=torch.Generator().manual_seed(2))
    whole = round_stochastically(values, torch.bfloat16, seed=7, name="w")
    at = module.CHUNK - 17
    parts = [
        round_stochastically(values[:at], torch.bfloat16, seed=7, name="w"),
        round_stochastically(values[at:], torch.bfloat16, seed=7, name="w", start=at),
    ]
    assert bits(torch.cat(parts), whole)


def test_nor_on_threads_and_the_state_of_the_global_generator(bits):
    values = torch.randn(module.CHUNK + 31)
    one = round_stochastically(values, torch.float16, seed=0, name="w")
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        assert bits(round_stochastically(values, torch.float16, seed=0, name="w"), one)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_name_and_chunk_each_give_other_draws(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 64)
    values = torch.full((64,), 1 + 2.0**-8)  # half a step: a coin for each
    first = round_stochastically(values, torch.bfloat16, seed=0, name="w")
    assert not torch.equal(first, round_stochastically(values, torch.bfloat16, seed=1, name="w"))
    assert not torch.equal(first, round_stochastically(values, torch.bfloat16, seed=0, name="v"))
    assert not torch.equal(
        first, round_stochastically(values, torch.bfloat16, seed=0, name="w", start=64)
    )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.int16),
        (torch.float32, torch.float64),
        (torch.int64, torch.float16),
    ],
)
def test_other_dtypes_are_refused(given, wanted):
    with pytest.raises(TypeError, match="expected float32 or float64 to 16 or 32 bits"):
        round_stochastically(torch.zeros(2, dtype=given), wanted, seed=0, name="w")


def test_no_elements_are_no_draws():
    assert round_stochastically(torch.zeros(0), torch.bfloat16, seed=0, name="w").shape == (0,)
