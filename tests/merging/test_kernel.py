"""The compiled loop: the bits of torch's operators, inner products within their bound, and merges without a compiler."""

import shutil
import sys
import sysconfig

import numpy as np
import pytest
import torch

from merging import DistributionVector, Recipe, kernel
from merging.kernel import Row, inner_products, reads, weighted_sum
from merging.merge import merge

DTYPES = (torch.float32, torch.bfloat16)
SIZES = (0, 1, 7, 511, 512, 513, 1543)
EDGES = [0.0, -0.0, 1e-45, -1e-40, 3.3e38, -3.3e38, float("inf"), -float("inf"), float("nan"), 1.00390625, 1.01171875]
"""Zeros, subnormals, what overflows, what is not finite, and two ties between neighbours in bfloat16."""


def test_it_is_compiled_wherever_there_is_a_compiler():
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    assert (kernel.library() is not None) == (shutil.which(compiler) is not None)


def drawn(size, dtype, seed):
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    values[: len(EDGES)] = torch.tensor(EDGES[:size]).roll(seed)
    return values.to(dtype)


def plain(base, rows, omegas, divisor, factor):
    """The same by torch's operators, one after the other."""
    total = None
    for row, omega in zip(rows, omegas, strict=True):
        values = row.values.float()
        if base is not None and not row.difference:
            values = values - base.float()
        product = values * torch.tensor(omega)
        total = product if total is None else total + product
    if divisor != 1:
        total = total / torch.tensor(divisor)
    if factor != 1:
        total = total * factor
    return total if base is None else total + base.float()


def same_bits(found, expected):
    """NaN where NaN is expected; all other bits equal, the sign of zero included."""
    missing = expected.isnan()
    assert found.isnan().equal(missing)
    width = {2: torch.int16, 4: torch.int32}[found.dtype.itemsize]
    assert torch.equal(found.view(width)[~missing], expected.view(width)[~missing])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("base_dtype", [*DTYPES, None])
@pytest.mark.parametrize(("divisor", "factor"), [(1.0, 1.0), (1.7, 1.0), (1.0, -0.3), (0.9, 2.5)])
def test_a_weighted_sum_has_the_bits_of_torchs_operators(size, out_dtype, base_dtype, divisor, factor):
    base = None if base_dtype is None else drawn(size, base_dtype, 1)
    rows = [
        Row(drawn(size, torch.bfloat16, 2), difference=False),
        Row(drawn(size, torch.float32, 3), difference=True),
        Row(drawn(size, torch.float32, 4), difference=False),
        Row(drawn(size, torch.bfloat16, 5), difference=True),
    ]
    omegas = [0.3, -1.1, 0.7, 1e-3]
    for count in range(1, 5):  # each of the four kinds comes first once
        given, weights = rows[-count:], omegas[-count:]
        out = torch.full((size,), 9.0, dtype=out_dtype)
        weighted_sum(base, given, weights, divisor, factor, out)
        same_bits(out, plain(base, given, weights, divisor, factor).to(out_dtype))


def test_a_product_is_not_fused_with_a_sum():
    # 1 + 2⁻¹² squared is 1 + 2⁻¹¹ + 2⁻²⁴; float32 drops the last term, a fused multiply-add would keep it
    x = torch.tensor([1 + 2.0**-12])
    rows = [Row(torch.tensor([-(1 + 2.0**-11)]), True), Row(x, True)]
    out = torch.empty(1)
    weighted_sum(None, rows, [1.0, float(x)], 1.0, 1.0, out)
    assert out.item() == 0.0


@pytest.mark.parametrize("size", SIZES)
def test_inner_products_against_float64(size):
    base = torch.randn(size, generator=torch.Generator().manual_seed(1)).bfloat16()
    given = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3, 4)]
    rows = [Row(given[0].bfloat16(), False), Row(given[1], False), Row(given[2], True)]
    deltas = [row.values.float() - (0 if row.difference else base.float()) for row in rows]
    wide = torch.stack(deltas).double().numpy()
    grams, square = inner_products(base, rows)
    lengths = np.sqrt((wide**2).sum(1))
    assert np.abs(grams - wide @ wide.T).max(initial=0.0) <= 1e-7 * np.outer(lengths, lengths).max(initial=1e-30)
    assert np.array_equal(grams, grams.T)
    assert square == pytest.approx(float(base.double().square().sum()), rel=1e-6)


def test_by_hand():
    base, rows = torch.tensor([1.0, 2.0]), [Row(torch.tensor([4.0, 2.0]), False), Row(torch.tensor([1.0, -1.0]), True)]
    out = torch.empty(2)
    weighted_sum(base, rows, [2.0, 3.0], 1.0, 1.0, out)
    assert out.tolist() == [10.0, -1.0]  # 1 + 2·3 + 3·1, 2 + 2·0 − 3·1
    grams, square = inner_products(base, rows)
    assert grams.tolist() == [[9.0, 3.0], [3.0, 2.0]]
    assert square == 5.0


def test_too_many_rows_are_refused():
    rows = [Row(torch.zeros(3), True)] * 17
    with pytest.raises(ValueError, match="at most 16 rows at once, 17 given"):
        inner_products(torch.zeros(3), rows)


def test_it_reads_float32_and_bfloat16_only():
    assert reads(torch.float32, torch.bfloat16)
    assert not reads(torch.float32, torch.float16)
    assert not reads(torch.float64)


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merge_without_a_compiler_has_the_same_bits(monkeypatch, method, base_dtype):
    base = {"w": drawn(1543, base_dtype, 1).nan_to_num(0.5, 2.0, -2.0)}
    vectors = {
        name: DistributionVector(name, base, {"w": drawn(1543, dtype, seed).nan_to_num(0.5, 3.0, -3.0).clamp(-9, 9)})
        for seed, (name, dtype) in enumerate([("a", torch.bfloat16), ("b", torch.float32), ("c", torch.float16)], 2)
    }
    recipe = Recipe.compose("base", {name: name for name in vectors}, {"a": 0.3, "b": -0.7, "c": 1.3}, method=method)
    compiled = dict(merge(recipe, base, vectors))["w"]
    monkeypatch.setattr(sys.modules["merging.kernel"], "library", lambda: None)
    without = dict(merge(recipe, base, vectors))["w"]
    same_bits(compiled, without)


def test_without_a_file_there_is_no_library(monkeypatch):
    monkeypatch.setattr(sys.modules["merging.kernel"], "EXTENSION_SUFFIXES", [".none"])
    kernel.library.cache_clear()
    assert kernel.library() is None
    kernel.library.cache_clear()
