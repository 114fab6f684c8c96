"""The laws of the one loop, and its worked examples."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from merging import (
    Checkpoint,
    DistributionVector,
    MergingError,
    MismatchError,
    ModelEntry,
    Recipe,
    RecipeError,
    merge,
    open_vector,
)
from merging import merge as merge_function
from merging.engine.loop import tensor
from merging.engine.tasks import out_dtype_of, tasks

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
ATTENTION = [f"model.layers.{layer}.self_attn.{side}_proj" for layer in (0, 2) for side in "qkv"]


def vectors_of(base, tuned, count=3):
    return {f"v{i}": DistributionVector(f"v{i}", base, tuned(base, i)) for i in range(count)}


def reference(base, vectors, omegas, lam=1.0):
    """Equation 2 in float64, one element after another's plain algebra."""
    out = {}
    for name, value in base.items():
        total = torch.zeros(value.shape, dtype=torch.float64)
        for key, omega in omegas.items():
            total += omega * (vectors[key].tuned[name].double() - value.double())
        out[name] = value.double() + lam * total
    return out


# ---------------------------------------------------------------------------------- worked examples


def test_equation_2_with_the_numbers_written_out(recipe):
    base = {"w": torch.tensor([1.0, 2.0, -4.0])}
    vectors = {
        "a": DistributionVector("a", base, {"w": torch.tensor([2.0, 2.0, -5.0])}),  # Δ = [1, 0, −1]
        "b": DistributionVector(
            "b", base, {"w": torch.tensor([1.5, 4.0, -4.0])}
        ),  # Δ = [0.5, 2, 0]
    }
    [(name, result)] = merge(recipe({"a": 0.5, "b": -2.0}), base, vectors)
    assert name == "w"
    assert result.tolist() == [0.5, -2.0, -4.5]  # 1 + 0.5·1 − 2·0.5,  2 + 0 − 2·2,  −4 − 0.5


def test_equation_3_with_the_numbers_written_out(recipe):
    base = {"w": torch.tensor([9.0, 9.0])}
    vectors = {
        "a": DistributionVector("a", base, {"w": torch.tensor([1.0, 2.0])}),
        "b": DistributionVector("b", base, {"w": torch.tensor([4.0, 0.0])}),
    }
    assert dict(merge(recipe({"a": 1, "b": 3}, "linear"), base, vectors))["w"].tolist() == [
        3.25,
        0.5,
    ]
    unscaled = recipe({"a": 1, "b": 3}, "linear", parameters={"normalize": False})
    assert dict(merge(unscaled, base, vectors))["w"].tolist() == [13.0, 2.0]


def test_lambda_and_normalize_with_the_numbers_written_out(recipe):
    base = {"w": torch.tensor([1.0])}
    vectors = {
        "a": DistributionVector("a", base, {"w": torch.tensor([2.0])}),
        "b": DistributionVector("b", base, {"w": torch.tensor([5.0])}),
    }
    given = recipe({"a": 1, "b": 3}, parameters={"normalize": True, "lambda": 0.5})
    assert dict(merge(given, base, vectors))["w"].tolist() == [2.625]  # 1 + 0.5·(1·1 + 3·4)/4


def test_gradients_and_filters_with_the_numbers_written_out():
    names = [f"h.{layer}.{part}.weight" for layer in range(3) for part in ("attn", "mlp")] + [
        "lm_head.weight"
    ]
    base = {name: torch.zeros(1) for name in names}
    vectors = {"a": DistributionVector("a", base, {name: torch.ones(1) for name in names})}
    rules = [
        {"filter": "mlp", "value": [0.0, 1.0]},
        {"filter": "lm_head", "value": 7},
        {"value": [2.0, 3.0, 8.0]},
    ]
    given = Recipe("base", (ModelEntry("a", "a", {"weight": rules}),))
    found = {name: value.item() for name, value in merge(given, base, vectors)}
    assert found == {
        "h.0.mlp.weight": 0.0,
        "h.1.mlp.weight": 0.5,
        "h.2.mlp.weight": 1.0,
        "h.0.attn.weight": 2.0,
        "h.1.attn.weight": 3.0,
        "h.2.attn.weight": 8.0,
        "lm_head.weight": 7.0,
    }


def test_a_gradient_outside_the_layers_and_with_one_layer_counts_as_mergekit_counts():
    base = {"h.0.w": torch.zeros(1), "norm.weight": torch.zeros(1)}
    vectors = {"a": DistributionVector("a", base, {name: torch.ones(1) for name in base})}
    given = Recipe("base", (ModelEntry("a", "a", {"weight": [0.25, 0.75]}),))
    found = {name: value.item() for name, value in merge(given, base, vectors)}
    assert found == {
        "h.0.w": 0.75,
        "norm.weight": 0.25,
    }  # one layer: the last value; outside: the first


def test_the_recipe_weight_is_the_default_of_models_that_have_none_or_no_matching_rule():
    base = {"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}
    vectors = {
        name: DistributionVector(name, base, {key: torch.ones(1) for key in base})
        for name in ("x", "y")
    }
    models = (
        ModelEntry("x", "x"),
        ModelEntry("y", "y", {"weight": [{"filter": "a.", "value": 10}]}),
    )
    given = Recipe("base", models, parameters={"weight": 0.5})
    assert {name: value.item() for name, value in merge(given, base, vectors)} == {
        "a.weight": 10.5,
        "b.weight": 1.0,
    }


# --------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_omegas_zero_give_the_base_bit_for_bit(dtype, llama, tuned, recipe, bits):
    base = llama(dtype=dtype)
    odd = base["model.norm.weight"]
    odd[:4] = torch.tensor(
        [-0.0, torch.finfo(dtype).smallest_normal / 4, math.inf, -math.inf], dtype=dtype
    )
    pattern = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    payload = (
        torch.tensor([math.nan], dtype=dtype).view(pattern) + 5
    )  # a NaN that is not the usual one
    odd[4:5] = payload.view(dtype)
    tuned_base = {name: value.nan_to_num(0, 1, 1) for name, value in base.items()}
    vectors = vectors_of(base, lambda weights, i: tuned(tuned_base, i))
    for method_zero in (recipe(dict.fromkeys(vectors, 0.0)), recipe(dict.fromkeys(vectors, -0.0))):
        result = dict(merge(method_zero, base, vectors))
        assert result.keys() == base.keys()
        assert all(bits(result[name], base[name]) for name in base)
    assert odd[4:5].view(pattern).item() == payload.item()


def test_all_omegas_zero_give_the_base_with_normalize_too(llama, tuned, recipe, bits):
    base = llama()
    vectors = vectors_of(base, tuned)
    result = dict(
        merge(recipe(dict.fromkeys(vectors, 0.0), parameters={"normalize": True}), base, vectors)
    )
    assert all(bits(result[name], base[name]) for name in base)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_omega_of_one_gives_the_tuned_weights(dtype, llama, tuned, recipe, bits):
    base = llama(dtype=dtype)
    vectors = vectors_of(base, tuned)
    for name in vectors:
        result = dict(merge(recipe({key: float(key == name) for key in vectors}), base, vectors))
        average = dict(
            merge(recipe({key: float(key == name) for key in vectors}, "linear"), base, vectors)
        )
        for key in base:
            wanted = vectors[name].tuned[key]
            assert bits(average[key], wanted)
            if dtype in (torch.bfloat16, torch.float16):
                assert bits(
                    result[key], wanted
                )  # float32 has the bits to spare, so that the difference is exact
            else:
                # One ulp of the larger operand: Θ_i − Θ is rounded once, and the sum once.
                scale = torch.maximum(base[key].abs(), wanted.abs())
                assert ((result[key] - wanted).abs() <= 1.0 * torch.finfo(dtype).eps * scale).all()


def test_equation_2_with_omegas_that_sum_to_one_equals_equation_3(llama, tuned, recipe):
    base = llama()
    vectors = vectors_of(base, tuned)
    omegas = {"v0": 0.7, "v1": 0.5, "v2": -0.2}
    edited, average = (
        dict(merge(recipe(omegas), base, vectors)),
        dict(merge(recipe(omegas, "linear"), base, vectors)),
    )
    for name in base:
        torch.testing.assert_close(edited[name], average[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=20, deadline=None)
@given(omegas=st.lists(st.floats(-3, 3), min_size=3, max_size=3), lam=st.floats(-2, 2))
def test_the_sum_equals_a_plain_float64_loop(dtype, omegas, lam):
    random = torch.Generator().manual_seed(5)
    base = {
        "a": torch.randn(13, 7, generator=random).to(dtype),
        "b.1.w": torch.randn(5, generator=random).to(dtype),
    }
    tuned = [
        {k: (v + 0.1 * torch.randn(v.shape, generator=random)).to(dtype) for k, v in base.items()}
        for _ in omegas
    ]
    vectors = {
        f"v{i}": DistributionVector(f"v{i}", base, weights) for i, weights in enumerate(tuned)
    }
    given_omegas = dict(zip(vectors, omegas, strict=True))
    made = Recipe.compose("base", {n: n for n in vectors}, given_omegas, parameters={"lambda": lam})
    wanted = reference(base, vectors, given_omegas, lam)
    for name, result in merge(made, base, vectors):
        assert result.dtype == dtype
        # Half an ulp of the storage dtype, and a few of float32 for what was added up to get there.
        size = 1 + sum(map(abs, omegas)) * max(1, abs(lam))
        working = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        slack = 0.51 * torch.finfo(dtype).eps * wanted[name].abs() + 8 * working * size
        if dtype == torch.float16:
            slack += 2.0**-24  # subnormals
        assert ((result.double() - wanted[name]).abs() <= slack).all()


def test_rounding_happens_once_at_the_end(recipe):
    # In bfloat16 1 + 2⁻⁹ is 1, so two such steps, each rounded, would stay at 1; together they are
    # 1 + 2⁻⁸ → 1.0078125.
    base = {"w": torch.tensor([1.0], dtype=torch.bfloat16)}
    up = {"w": torch.tensor([1.0078125], dtype=torch.bfloat16)}  # Δ = 2⁻⁷
    vectors = {name: DistributionVector(name, base, up) for name in ("a", "b", "c")}
    result = dict(merge(recipe({"a": 0.25, "b": 0.25, "c": 0.25}), base, vectors))["w"]
    assert result.item() == 1.0078125


def test_every_tensor_comes_out_with_its_name_shape_and_dtype_in_the_base_order(
    llama, tuned, recipe, bits
):
    base = llama(dtype=torch.bfloat16) | {
        "model.layers.0.attn.bias": torch.ones(1, 1, 5, 5).tril(),  # GPT-2's mask
        "model.rotary.inv_freq": torch.rand(3),
        "steps": torch.tensor(7, dtype=torch.int64),
        "flags": torch.tensor([True, False, True]),
        "small": torch.arange(6, dtype=torch.uint8).view(2, 3),
        "empty": torch.empty(0, 7),
        "scalar": torch.tensor(1.5),
        "half": torch.rand(2, 3, 5).half(),
        "wide": torch.rand(2, 2).double(),
    }
    vectors = vectors_of(base, tuned)
    result = list(merge(recipe({"v0": 0.3, "v1": -0.4, "v2": 0.5}), base, vectors))
    assert [name for name, _ in result] == list(base)
    assert all(
        (value.dtype, value.shape) == (base[name].dtype, base[name].shape) for name, value in result
    )
    kept = [name for name, value in result if bits(value, base[name])]
    assert kept == [
        "model.layers.0.attn.bias",
        "model.rotary.inv_freq",
        "steps",
        "flags",
        "small",
        "empty",
    ]


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_block_size_does_not_change_a_bit(
    method, dtype, tmp_path, llama, tuned, adapter, write, recipe, bits, pieces
):
    weights = llama(dtype=dtype)
    base = Checkpoint(write(tmp_path / "base", weights))
    paths = [
        write(tmp_path / "cot", tuned(weights, 1)),
        adapter(tmp_path / "lora", weights, ATTENTION),
    ]
    vectors = {path.name: open_vector(path, base) for path in paths}
    given_recipe = recipe({"cot": 0.7, "lora": -0.31}, method)
    whole = dict(merge(given_recipe, base, vectors))
    for sizes in ((1,), (2, 7), (13, 39), (31, 101), (101, 10**6)):
        pieces(*sizes)
        assert all(
            bits(value, whole[name]) for name, value in merge(given_recipe, base, vectors)
        ), sizes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_thread_count_does_not_change_a_bit(
    dtype, tmp_path, tuned, adapter, recipe, bits, pieces, write
):
    # Larger than a block, not a multiple of the vector width, and large enough for torch to split
    # among threads.
    weights = {"model.layers.0.up_proj.weight": torch.randn(521, 1031).to(dtype)}
    base = Checkpoint(write(tmp_path / "base", weights))
    folders = [
        adapter(tmp_path / f"r{rank}", weights, ["model.layers.0.up_proj"], rank=rank, seed=rank)
        for rank in (17, 5)
    ]
    vectors = {folder.name: open_vector(folder, base) for folder in folders}
    vectors["full"] = DistributionVector("full", base, tuned(weights, 1))
    alone, both = {"full": 0.37, "r17": -0.71}, {"full": 0.37, "r17": -0.71, "r5": 0.2}
    found = {"alone": [], "both": []}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for folder in folders:
                vectors[folder.name] = open_vector(folder, base)  # which have computed nothing
            for kind, omegas in (("alone", alone), ("both", both)):
                found[kind] += [value for _, value in merge(recipe(omegas), base, vectors)]
            pieces(65_537)
    finally:
        torch.set_num_threads(before)
    for first, *others in found.values():
        assert len(others) == 3 and all(bits(first, other) for other in others)


def test_the_order_in_which_tensors_are_computed_does_not_change_a_bit(llama, tuned, recipe, bits):
    base = llama()
    vectors = vectors_of(base, tuned)
    given_recipe = recipe({"v0": 0.3, "v1": -0.4, "v2": 0.5})
    forward = dict(merge(given_recipe, base, vectors))
    for task in reversed(tasks(given_recipe, base, vectors)):
        assert bits(tensor(task, base, vectors), forward[task.name])


def test_neither_base_nor_vectors_are_changed_by_a_merge(llama, tuned, recipe, bits):
    base = llama()
    kept = {name: value.clone() for name, value in base.items()}
    vectors = vectors_of(base, tuned)
    before = [
        {name: value.clone() for name, value in vector.tuned.items()} for vector in vectors.values()
    ]
    for method in ("task_arithmetic", "linear"):
        for _, value in merge(recipe({"v0": 0.3, "v1": 1.0, "v2": 0.5}, method), base, vectors):
            value.zero_()
    assert all(bits(base[name], kept[name]) for name in base)
    assert all(
        bits(vector.tuned[name], old[name])
        for vector, old in zip(vectors.values(), before, strict=True)
        for name in old
    )


def test_a_vector_at_zero_takes_no_part_even_where_it_is_not_finite(recipe):
    base = {"w": torch.tensor([1.0, -0.0])}
    broken = DistributionVector("broken", base, {"w": torch.tensor([math.inf, math.nan])})
    sound = DistributionVector("sound", base, {"w": torch.tensor([3.0, -0.0])})
    result = dict(
        merge(recipe({"broken": 0, "sound": 0.5}), base, {"broken": broken, "sound": sound})
    )["w"]
    assert result.tolist() == [2.0, 0.0]


def test_a_checkpoint_of_another_dtype_is_computed_in_float32_and_stored_as_the_base(recipe):
    base = {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    vectors = {"a": DistributionVector("a", base, {"w": torch.tensor([1.001, 2.5])})}
    result = dict(merge(recipe({"a": 2.0}), base, vectors))["w"]
    assert result.dtype == torch.bfloat16
    assert result.tolist() == [1.0, 3.0]  # 1.002 is nearest to 1 in bfloat16
    assert vectors["a"]["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "out_dtype", "wanted"),
    [
        (None, None, torch.float16),
        ("bfloat16", None, torch.bfloat16),
        ("bfloat16", "float32", torch.float32),
        (None, "float64", torch.float64),
    ],
)
def test_out_dtype_before_dtype_before_the_base(dtype, out_dtype, wanted, llama, tuned, recipe):
    base = llama(dtype=torch.float16) | {"steps": torch.tensor([3]), "x.inv_freq": torch.rand(3)}
    vectors = vectors_of(base, tuned)
    given_recipe = recipe({"v0": 0.5, "v1": 0.0, "v2": 0.25}, dtype=dtype, out_dtype=out_dtype)
    result = dict(merge(given_recipe, base, vectors))
    assert {value.dtype for name, value in result.items() if name in llama()} == {wanted}
    assert result["steps"].dtype == torch.int64
    assert (
        result["x.inv_freq"].dtype == torch.float32
    )  # a constant of the code comes from the base as it is
    assert out_dtype_of(given_recipe, torch.int32) == torch.int32


def test_merging_asks_for_no_more_than_a_block_at_a_time(tuned, recipe, pieces):
    """The whole of a tensor is never in memory as float32, in any mapping that can give a part."""

    class Recorded(Mapping[str, Tensor]):
        def __init__(self, weights):
            self.weights, self.largest = weights, 0

        def block(self, name, start, stop, scratch=None):
            self.largest = max(self.largest, stop - start)
            return self.weights[name].flatten()[start:stop]

        def __getitem__(self, name) -> Tensor:
            return self.weights[name].as_strided(
                self.weights[name].shape, self.weights[name].stride()
            )

        def __iter__(self) -> Iterator[str]:
            return iter(self.weights)

        def __len__(self) -> int:
            return len(self.weights)

    pieces(1009)
    base = Recorded({"a.weight": torch.randn(103, 107), "b.weight": torch.randn(53)})
    fine = Recorded(tuned(base.weights, 1))
    vectors = {"fine": DistributionVector("fine", base, fine)}
    for task in tasks(recipe({"fine": 0.5}), base, vectors):
        assert tensor(task, base, vectors).shape == task.shape
    assert (base.largest, fine.largest) == (1009, 1009)


def test_a_lora_delta_is_never_whole_in_memory(tmp_path, adapter, monkeypatch):
    from merging import LoraVector
    from merging.inputs import lora_vector as module

    base = {"up.weight": torch.zeros(103, 107)}
    folder = adapter(tmp_path / "lora", base, ["up"])
    whole = LoraVector(folder, base)["up.weight"].flatten()
    monkeypatch.setattr(module, "CHUNK", 1009)
    monkeypatch.setattr(module, "ROWS", 1)
    vector = LoraVector(folder, base)
    vector.block("up.weight", 0, 1)
    [(chunk, unread)] = vector._chunked["up.weight"]._begun.values()
    assert (chunk.numel(), unread) == (9 * 107, 9 * 107 - 1)
    for start, stop in [(0, 1), (5, 1009), (962, 964), (963, 1926), (7000, 11_021)]:
        assert torch.equal(vector.block("up.weight", start, stop), whole[start:stop])


# ------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_carried_out_is_said_before_anything_is_computed(llama, tuned, recipe):
    base = llama()
    vectors = vectors_of(base, tuned, 2)

    def refused(message, made, error=RecipeError, given=vectors):
        with pytest.raises(error, match=message):
            tasks(made, base, given)

    refused(
        "the recipe names 'v7', which is not loaded; loaded: v0, v1", recipe({"v0": 1, "v7": 1})
    )
    refused("the recipe names 'v0', which is not loaded; loaded: none", recipe({"v0": 1}), given={})
    refused(
        "^linear at model.embed_tokens.weight: the ω sum to 0, and it divides by their sum"
        ".*normalize: false",
        recipe({"v0": 1, "v1": -1}, "linear"),
    )
    refused(
        "task_arithmetic at .*: the ω sum to 0",
        recipe({"v0": 0.3, "v1": -0.3}, parameters={"normalize": True}),
    )
    refused(
        "all ω are 0, so linear has nothing to average",
        recipe({"v0": 0, "v1": 0}, "linear", parameters={"normalize": False}),
    )
    refused(
        "v0: weight: the filter 'expert' matches no tensor of the base",
        recipe({"v0": [{"filter": "expert", "value": 1}, {"value": 0}]}),
    )
    refused(
        "v0: no rule for weight matches '.*'. End the rules with one without a filter",
        recipe({"v0": [{"filter": "mlp", "value": 1}]}),
    )
    other = DistributionVector("v0", {"elsewhere": torch.zeros(2)}, {"elsewhere": torch.ones(2)})
    refused(
        "v0 changes elsewhere, which the base lacks",
        recipe({"v0": 1}),
        MismatchError,
        {"v0": other},
    )


def test_deltas_are_never_taken_for_weights(llama, tuned, recipe):
    base = llama()
    vectors = vectors_of(base, tuned, 1)
    with pytest.raises(TypeError, match="v0 is a vector of differences; the base must be weights"):
        list(merge(recipe({"v0": 1}), vectors["v0"], vectors))


def test_a_method_of_tensor_scope_gets_the_whole_tensor(monkeypatch, recipe, pieces):
    from merging.methods import _contract

    seen, real = [], _contract.load

    def combine(stack, omegas, site, *, normalize: bool = False, lambda_: float = 1.0):
        seen.append((stack.shape, site.base.shape, site.name))
        return stack.sum(0)

    # no weighted sum any more, so that the compiled loop leaves it alone
    changed = replace(real("task_arithmetic"), scope="tensor", combine=combine, scale=None)
    monkeypatch.setattr(_contract, "load", lambda name: changed)
    pieces(4)
    base = {"w": torch.zeros(5, 7), "none": torch.zeros(0, 3)}
    vectors = {
        "a": DistributionVector("a", base, {"w": torch.ones(5, 7), "none": torch.zeros(0, 3)})
    }
    result = dict(merge_function(recipe({"a": 2}), base, vectors))
    assert result["w"].tolist() == [[1.0] * 7] * 5
    assert seen == [((1, 5, 7), (5, 7), "w")]


def test_values_that_are_not_finite_are_refused_by_the_tensors_name(recipe):
    base = {"v": torch.ones(2), "w": torch.ones(3)}
    broken = DistributionVector("a", base, base | {"w": torch.tensor([1.0, math.nan, math.inf])})
    merged = merge(recipe({"a": 0.5}), base, {"a": broken})
    assert next(merged)[0] == "v"
    with pytest.raises(MergingError, match=r"^w: 2 merged values are not finite\."):
        next(merged)
