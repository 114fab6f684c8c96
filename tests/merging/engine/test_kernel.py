"""The compiled loop: torch's bits, inner products within their bound, merges without a compiler."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from merging import Checkpoint, CheckpointError, DistributionVector, Recipe
from merging.engine import kernel
from merging.engine.kernel import (
    SLICE,
    Terms,
    VectorSpan,
    exact_products,
    exact_sum,
    inner_products,
    reads,
    scratch_bytes,
    weighted_sum,
)
from merging.engine.loop import merge
from merging.inputs.checkpoint import Stored, in_memory
from merging.inputs.digest import LEAF

DTYPES = (torch.float32, torch.bfloat16)
SIZES = (0, 1, 7, 511, 512, 513, 1543)
EDGES = [
    0.0,
    -0.0,
    1e-45,
    -1e-40,
    3.3e38,
    -3.3e38,
    float("inf"),
    -float("inf"),
    float("nan"),
    1.00390625,
    1.01171875,
]
"""Zeros, subnormals, overflow, non-finite values, and two ties between bfloat16 numbers."""


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
def test_a_weighted_sum_has_the_bits_of_torchs_operators(
    size, out_dtype, base_dtype, divisor, factor
):
    base = None if base_dtype is None else drawn(size, base_dtype, 1)
    rows = [
        VectorSpan(drawn(size, torch.bfloat16, 2), difference=False),
        VectorSpan(drawn(size, torch.float32, 3), difference=True),
        VectorSpan(drawn(size, torch.float32, 4), difference=False),
        VectorSpan(drawn(size, torch.bfloat16, 5), difference=True),
    ]
    omegas = [0.3, -1.1, 0.7, 1e-3]
    for count in range(1, 5):  # each of the four kinds comes first once
        given, weights = rows[-count:], omegas[-count:]
        out = torch.full((size,), 9.0, dtype=out_dtype)
        weighted_sum(base, given, Terms(weights, divisor, factor), out)
        same_bits(out, plain(base, given, weights, divisor, factor).to(out_dtype))


@pytest.mark.parametrize("odd", [None, 0, 2, 5])
@pytest.mark.parametrize("kind", [(dtype, apart) for dtype in DTYPES for apart in (False, True)])
def test_rows_of_one_kind_are_taken_four_at_a_time(kind, odd):
    """Whatever their number, and wherever one of another kind is among them."""
    base, other = drawn(1543, torch.bfloat16, 1), DTYPES[DTYPES[0] is kind[0]]
    for count in (4, 5, 8, 11):
        rows = [VectorSpan(drawn(1543, kind[0], 2 + k), kind[1]) for k in range(count)]
        if odd is not None and odd < count:
            rows[odd] = VectorSpan(drawn(1543, other, 99), kind[1])
        omegas = [0.3 * (-1.1) ** k for k in range(count)]
        for theta in (base, None):
            out = torch.empty(1543)
            weighted_sum(theta, rows, Terms(omegas, 1.0, 1.0), out)
            same_bits(out, plain(theta, rows, omegas, 1.0, 1.0))


def test_a_product_is_not_fused_with_a_sum():
    # 1 + 2⁻¹² squared is 1 + 2⁻¹¹ + 2⁻²⁴; float32 drops the last term, which a fused
    # multiply-add would keep
    x = torch.tensor([1 + 2.0**-12])
    rows = [VectorSpan(torch.tensor([-(1 + 2.0**-11)]), True), VectorSpan(x, True)]
    out = torch.empty(1)
    weighted_sum(None, rows, Terms([1.0, float(x)], 1.0, 1.0), out)
    assert out.item() == 0.0


@pytest.mark.parametrize("size", SIZES)
def test_inner_products_against_float64(size):
    base = torch.randn(size, generator=torch.Generator().manual_seed(1)).bfloat16()
    given = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3, 4)]
    rows = [
        VectorSpan(given[0].bfloat16(), False),
        VectorSpan(given[1], False),
        VectorSpan(given[2], True),
    ]
    deltas = [row.values.float() - (0 if row.difference else base.float()) for row in rows]
    wide = torch.stack(deltas).double().numpy()
    grams, square = inner_products(base, rows)
    lengths = np.sqrt((wide**2).sum(1))
    assert np.abs(grams - wide @ wide.T).max(initial=0.0) <= 1e-7 * np.outer(lengths, lengths).max(
        initial=1e-30
    )
    assert np.array_equal(grams, grams.T)
    assert square == pytest.approx(float(base.double().square().sum()), rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("given_base", [True, False])
def test_exact_products_have_the_digits_of_float64(size, given_base):
    base = torch.randn(size, generator=torch.Generator().manual_seed(1)).bfloat16()
    given = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3, 4)]
    # Nearly opposite, so that float32 products would leave no digit of their cosine's distance to −1.
    rows = [
        VectorSpan(given[0].bfloat16(), False),
        VectorSpan(given[1], True),
        VectorSpan(-given[1] * (1 + 2.0**-20), True),
    ]
    deltas = [
        row.values.float() - (0 if row.difference or not given_base else base.float())
        for row in rows
    ]
    wide = torch.stack(deltas).double().numpy()
    grams = exact_products(base if given_base else None, rows)
    lengths = np.sqrt((wide**2).sum(1))
    scale = np.outer(lengths, lengths).max(initial=1e-30)
    assert np.abs(grams - wide @ wide.T).max(initial=0.0) <= 1e-15 * scale
    assert np.array_equal(grams, grams.T)


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("given_base", [True, False])
def test_exact_sums_have_the_bits_of_a_sum_in_float64(size, given_base, out_dtype):
    base = torch.randn(size, generator=torch.Generator().manual_seed(1)).bfloat16()
    given = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3)]
    rows = [
        VectorSpan(given[0].bfloat16(), False),
        VectorSpan(given[1], True),
        VectorSpan(given[1] + 2.0**-12, True),
        VectorSpan(given[0], False),
    ]
    factors = [0.3, 3e6, -3e6, 1 / 3]
    total = torch.zeros(size, dtype=torch.float64)
    for row, factor in zip(rows, factors, strict=True):
        apart = given_base and not row.difference
        total += (row.values.float() - (base.float() if apart else 0)).double() * factor
    wanted = total.float() + (base.float() if given_base else 0)
    out = torch.empty(size, dtype=out_dtype)
    exact_sum(base if given_base else None, rows, factors, out)
    same_bits(out, wanted.to(out_dtype))


def test_by_hand():
    base, rows = (
        torch.tensor([1.0, 2.0]),
        [VectorSpan(torch.tensor([4.0, 2.0]), False), VectorSpan(torch.tensor([1.0, -1.0]), True)],
    )
    out = torch.empty(2)
    weighted_sum(base, rows, Terms([2.0, 3.0], 1.0, 1.0), out)
    assert out.tolist() == [10.0, -1.0]  # 1 + 2·3 + 3·1, 2 + 2·0 − 3·1
    grams, square = inner_products(base, rows)
    assert grams.tolist() == [[9.0, 3.0], [3.0, 2.0]]
    assert square == 5.0
    assert exact_products(base, rows).tolist() == [[9.0, 3.0], [3.0, 2.0]]
    assert exact_products(None, rows).tolist() == [[20.0, 2.0], [2.0, 2.0]]


class TestFiles:
    """The same from files, of which a slice is in memory at a time."""

    @pytest.fixture
    def stored(self, tmp_path):
        """Values -> the same in a file, behind a few bytes of something else."""
        files = ExitStack()

        def store(values, ahead=10):
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            content = values.view(torch.uint8).numpy().tobytes()
            path.write_bytes(b"\xff" * ahead + content + b"\xff" * 7)
            file = files.enter_context(path.open("rb"))
            return Stored(path, file.fileno(), ahead, values.numel(), values.dtype)

        with files:
            yield store

    @pytest.mark.parametrize("size", [0, 1, 513, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE + 1543])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_they_give_the_bits_of_memory(self, stored, size, dtype):
        base = drawn(size, dtype, 1)
        rows = [
            VectorSpan(drawn(size, torch.bfloat16, 2), False),
            VectorSpan(drawn(size, torch.float32, 3), True),
        ]
        rows += [
            VectorSpan(drawn(size, torch.float32, 4), False),
            VectorSpan(drawn(size, torch.bfloat16, 5), True),
        ]
        far = [
            VectorSpan(stored(row.values, 3 + 2 * number), row.difference)
            for number, row in enumerate(rows)
        ]
        scratch = torch.empty(scratch_bytes(4), dtype=torch.uint8)
        wanted, found = torch.empty(2, size, dtype=dtype)
        weighted_sum(base, rows, Terms([0.3, -1.1, 0.7, 1e-3], 0.9, 2.5), wanted)
        for theta, given in (
            (stored(base), far),
            (base, far),
            (stored(base), [*rows[:2], *far[2:]]),
            (base, rows),
        ):
            weighted_sum(
                theta, given, Terms([0.3, -1.1, 0.7, 1e-3], 0.9, 2.5), found.fill_(9), scratch
            )
            same_bits(found, wanted)
        weighted_sum(None, rows, Terms([1.0, 2.0, 3.0, 4.0], 1.0, 1.0), wanted)
        weighted_sum(None, far, Terms([1.0, 2.0, 3.0, 4.0], 1.0, 1.0), found, scratch)
        same_bits(found, wanted)

    @pytest.mark.parametrize("size", [0, 511, SLICE, SLICE + 700])
    def test_inner_products_have_the_bits_of_memory(self, stored, size):
        base = torch.randn(size).bfloat16()
        rows = [
            VectorSpan(torch.randn(size).bfloat16(), False),
            VectorSpan(torch.randn(size), True),
            VectorSpan(torch.randn(size), False),
        ]
        far = [VectorSpan(stored(row.values), row.difference) for row in rows]
        scratch = torch.empty(scratch_bytes(3), dtype=torch.uint8)
        wanted, square = inner_products(base, rows)
        for theta, given in ((stored(base), far), (base, [rows[0], *far[1:]])):
            both = inner_products(theta, given, scratch)
            assert np.array_equal(both[0], wanted) and both[1] == square
            found, known = torch.empty(2, size)
            exact_sum(theta, given, [0.5, 2.0, -1.0], found, scratch)
            exact_sum(base, rows, [0.5, 2.0, -1.0], known)
            same_bits(found, known)
            exact = exact_products(theta, given, scratch)
            assert np.array_equal(exact, exact_products(base, rows))

    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_a_file_that_ends_early_is_named(self, stored, which):
        given = [stored(torch.zeros(SLICE + 9)) for _ in range(3)]
        path = given[which].path
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 8)  # the last seven bytes are not the tensor's
        rows, scratch = (
            [VectorSpan(one, False) for one in given[1:]],
            torch.empty(scratch_bytes(2), dtype=torch.uint8),
        )
        with pytest.raises(
            CheckpointError, match=f"/{path.name} was cut short while it was read. Copy it again"
        ):
            weighted_sum(
                given[0], rows, Terms([1.0, 1.0], 1.0, 1.0), torch.empty(SLICE + 9), scratch
            )
        with pytest.raises(
            CheckpointError, match=f"/{path.name} was cut short while it was read. Copy it again"
        ):
            inner_products(given[0], rows, scratch)
        with pytest.raises(CheckpointError, match=f"/{path.name} was cut short"):
            exact_products(given[0], rows, scratch)
        with pytest.raises(CheckpointError, match=f"/{path.name} was cut short"):
            exact_sum(given[0], rows, [1.0, 1.0], torch.empty(SLICE + 9), scratch)

    def test_a_disk_that_fails_is_named(self, stored, tmp_path):
        fine, scratch = stored(torch.zeros(9)), torch.empty(scratch_bytes(1), dtype=torch.uint8)
        folder = os.open(tmp_path, os.O_RDONLY)  # to be read as a file is refused by the system
        try:
            bad = fine._replace(path=tmp_path, file=folder)
            with pytest.raises(
                CheckpointError, match=f"{tmp_path.name}: reading failed: Is a directory"
            ):
                weighted_sum(
                    fine, [VectorSpan(bad, False)], Terms([1.0], 1.0, 1.0), torch.empty(9), scratch
                )
        finally:
            os.close(folder)

    @pytest.mark.parametrize(
        "scratch", [None, torch.empty(scratch_bytes(1) - 1, dtype=torch.uint8)]
    )
    def test_without_room_to_read_into_nothing_is_read(self, stored, scratch):
        with pytest.raises(
            ValueError, match="reading 1 rows from files takes a scratch of 524,288 bytes"
        ):
            inner_products(stored(torch.zeros(9)), [VectorSpan(torch.zeros(9), False)], scratch)

    def test_a_merge_reads_each_byte_of_its_inputs_once(self, tmp_path, tuned, write, recipe):
        """As the kernel of the system counts them: bytes asked for by reads of this thread."""
        counter = Path("/proc/thread-self/io")
        if not counter.exists():
            pytest.skip("this system does not count what is read")
        weights = {"w": torch.randn(3, 100_003).bfloat16(), "v": torch.randn(11)}
        base = Checkpoint(write(tmp_path / "base", weights))
        paths = {
            name: write(tmp_path / name, tuned(weights, seed)) for seed, name in enumerate("ab")
        }
        vectors = {
            name: DistributionVector(name, base, Checkpoint(path)) for name, path in paths.items()
        }

        def counted():
            return int(counter.read_text().split()[1])

        dict(
            merge(recipe({"a": 0.3, "b": 0.5}), base, vectors)
        )  # what is imported is read too, the first time
        own = -(counted() - counted())  # what reading the counter adds
        before = counted()
        merged = dict(merge(recipe({"a": 0.3, "b": 0.5}), base, vectors))
        assert counted() - before - own == 3 * base.nbytes
        held = {
            name: in_memory(one)
            for name, one in (("base", base), *((v, vectors[v].tuned) for v in "ab"))
        }
        near = {name: DistributionVector(name, held["base"], held[name]) for name in "ab"}
        for name, value in merge(recipe({"a": 0.3, "b": 0.5}), held["base"], near):
            same_bits(merged[name], value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_finite_is_what_torch_says_of_each(dtype):
    tiny, most = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    for size in (0, 1, 63, 64, 1000):
        values = torch.tensor([0.0, -0.0, tiny / 2, -most, most]).to(dtype).repeat(200)[:size]
        assert kernel.all_finite(values)
        for place in {0, size // 2, size - 1} if size else ():
            for bad in (float("inf"), -float("inf"), float("nan"), -float("nan")):
                spoiled = values.clone()
                spoiled[place] = bad
                assert not kernel.all_finite(spoiled)


def test_too_many_rows_are_refused():
    rows = [VectorSpan(torch.zeros(3), True)] * 17
    with pytest.raises(ValueError, match="at most 16 rows at once, 17 given"):
        inner_products(torch.zeros(3), rows)
    with pytest.raises(ValueError, match="at most 16 rows at once, 17 given"):
        exact_products(None, rows)


def test_it_reads_float32_and_bfloat16_only():
    assert reads(torch.float32, torch.bfloat16)
    assert not reads(torch.float32, torch.float16)
    assert not reads(torch.float64)


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merge_without_a_compiler_has_the_same_bits(monkeypatch, method, base_dtype):
    base = {"w": drawn(1543, base_dtype, 1).nan_to_num(0.5, 2.0, -2.0).clamp(-9, 9)}
    vectors = {
        name: DistributionVector(
            name, base, {"w": drawn(1543, dtype, seed).nan_to_num(0.5, 3.0, -3.0).clamp(-9, 9)}
        )
        for seed, (name, dtype) in enumerate(
            [("a", torch.bfloat16), ("b", torch.float32), ("c", torch.float16)], 2
        )
    }
    recipe = Recipe.compose(
        "base", {name: name for name in vectors}, {"a": 0.3, "b": -0.7, "c": 1.3}, method=method
    )
    compiled = dict(merge(recipe, base, vectors))["w"]
    monkeypatch.setattr(sys.modules["merging.engine.kernel"], "library", lambda: None)
    without = dict(merge(recipe, base, vectors))["w"]
    same_bits(compiled, without)


def test_without_a_file_there_is_no_library(monkeypatch):
    monkeypatch.setattr(sys.modules["merging.engine.kernel"], "EXTENSION_SUFFIXES", [".none"])
    kernel.library.cache_clear()
    assert kernel.library() is None
    kernel.library.cache_clear()


# ------------------------------------------------------------------------- hashes of what is read


LENGTHS = (*range(241, 1300, 13), 1023, 1024, 1025, 1088, 1089, 2048, 2049, 65537, LEAF - 1, LEAF)


def hashes(library, data):
    """What hash_leaves gives for memory that begins anywhere."""
    values = np.frombuffer(data, np.uint8)
    leaves = np.zeros(-(-len(values) // LEAF), np.uint64)
    library.hash_leaves(values.ctypes.data, len(values), leaves.ctypes.data)
    return leaves.tolist()


def test_its_hash_is_xxh3():
    data = np.random.default_rng(0).integers(0, 256, 3 * LEAF + 999, np.uint8).tobytes()
    for number, size in enumerate(LENGTHS):
        part = data[number % 9 :][:size]
        assert hashes(kernel.library(), part) == [xxhash.xxh3_64_intdigest(part)], size
    leaves = [data[at : at + LEAF] for at in range(0, len(data), LEAF)]
    assert hashes(kernel.library(), data) == [xxhash.xxh3_64_intdigest(leaf) for leaf in leaves]
    # The form for shorter inputs is another one; it is left to the package.
    assert hashes(kernel.library(), data[:240]) == [0]


@pytest.mark.slow
def test_its_hash_is_xxh3_on_other_machines_too(tmp_path):
    source, built = Path(kernel.__file__).with_name("kernel.c"), tmp_path / "portable.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    flags = ["-O1", "-DPORTABLE", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([*compiler, *flags, "-o", str(built), str(source)], check=True)
    library = ctypes.CDLL(str(built))
    library.hash_leaves.argtypes = kernel.library().hash_leaves.argtypes
    data = np.random.default_rng(1).integers(0, 256, LEAF, np.uint8).tobytes()
    for size in LENGTHS:
        assert hashes(library, data[:size]) == [xxhash.xxh3_64_intdigest(data[:size])], size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["weighted_sum", "inner_products"])
def test_what_it_reads_it_hashes_for_the_digest(function, dtype, tmp_path, write):
    """Each slice is whole leaves, so that every leaf of every input comes by once."""
    assert SLICE * dtype.itemsize % LEAF == 0
    size = 5 * LEAF // dtype.itemsize + 1001
    tensors = [{"w": drawn(size, dtype, seed)} for seed in range(3)]
    opened = [Checkpoint(write(tmp_path / str(k), each)) for k, each in enumerate(tensors)]
    scratch = torch.empty(scratch_bytes(2), dtype=torch.uint8)
    with ExitStack() as files:
        for checkpoint in opened:
            checkpoint.gather_digest()
        base, *stored = [checkpoint.in_file("w", 0, size, files) for checkpoint in opened]
        rows = [VectorSpan(values, False) for values in stored]
        if function == "weighted_sum":
            weighted_sum(base, rows, Terms([0.5, 0.5]), torch.empty(size, dtype=dtype), scratch)
        else:
            inner_products(base, rows, scratch)
        assert all(checkpoint.in_file("w", 0, size, files).leaves is None for checkpoint in opened)
    for checkpoint, tensor in zip(opened, tensors, strict=True):
        data = tensor["w"].view(torch.uint8).numpy().tobytes()
        wanted = [
            xxhash.xxh3_64_intdigest(data[at : at + LEAF]) for at in range(0, len(data), LEAF)
        ]
        assert checkpoint._tree._leaves["w"].tolist() == wanted
        assert checkpoint.digest == Checkpoint(checkpoint.path).digest
