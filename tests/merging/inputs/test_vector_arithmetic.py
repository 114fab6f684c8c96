"""Arithmetic of vectors: worked numbers, laws, and what cannot be combined."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from merging import (
    Checkpoint,
    DistributionVector,
    LoraVector,
    MismatchError,
    export,
    measure,
    merge,
    open_vector,
)
from merging.inputs.vector_arithmetic import AdapterSum, Combined, WeightedAdapter
from merging.preflight import check

QUERY = "model.layers.1.self_attn.q_proj"


def vector(name, base, *values):
    return DistributionVector(name, base, {"w": torch.tensor(values)})


def test_an_analogy_with_the_numbers_written_out():
    base = {"w": torch.tensor([1.0, 1.0])}
    a, b, c = (
        vector(name, base, *values)
        for name, values in {"a": (2.0, 1.0), "b": (3.0, 0.0), "c": (5.0, 1.5)}.items()
    )
    d = Combined("d", [(1.0, c), (1.0, b), (-1.0, a)])  # Δc = [4, 0.5], Δb = [2, −1], Δa = [1, 0]
    assert d["w"].tolist() == [5.0, -0.5]
    assert d.block("w", 1, 2).tolist() == [-0.5] and d.weights_block("w", 0, 2).tolist() == [
        6.0,
        0.5,
    ]
    assert (list(d), len(d), "w" in d, "v" in d, d.name, d.path) == (
        ["w"],
        1,
        True,
        False,
        "d",
        None,
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_tensor_that_a_vector_leaves_alone_counts_as_zero(
    kind, tmp_path, llama, tuned, write, adapter, recipe, bits
):
    base = Checkpoint(write(tmp_path / "base", llama(dtype=kind)))
    whole = open_vector(write(tmp_path / "cot", tuned(llama(dtype=kind), 1)), base)
    lora = open_vector(adapter(tmp_path / "p3", llama(), [QUERY]), base)
    both = Combined("d", [(0.5, lora), (-2.0, whole)])
    assert set(both) == set(base) and next(iter(both)) == f"{QUERY}.weight"
    for name in base:
        wanted = -2.0 * whole[name] if name not in lora else 0.5 * lora[name] + -2.0 * whole[name]
        assert torch.equal(both[name], wanted) and both[name].dtype == whole[name].dtype
    alone = Combined("d", [(1.0, lora)])
    assert set(alone) == set(lora)
    assert torch.equal(
        alone.weights_block("model.norm.weight", 1, 4),
        base["model.norm.weight"].to(whole["model.norm.weight"].dtype)[1:4],
    )
    # Equation 2 with the coefficients as ω
    given = recipe({"lora": 0.5, "cot": -2.0})
    one = dict(merge(given, base, {"lora": lora, "cot": whole}))
    two = dict(merge(recipe({"d": 1.0}), base, {"d": both}))
    assert all(bits(one[name], two[name]) for name in base)


def test_it_is_a_vector_like_any_other(tmp_path, llama, tuned, write, recipe):
    base = Checkpoint(write(tmp_path / "base", llama()))
    one, two = (open_vector(write(tmp_path / str(i), tuned(llama(), i)), base) for i in (1, 2))
    difference = Combined("d", [(1.0, one), (-1.0, two)])
    vectors = {"one": one, "two": two, "d": difference}
    gram = measure(base, vectors).gram()
    assert gram[2, 2] == pytest.approx(gram[0, 0] + gram[1, 1] - 2 * gram[0, 1], rel=1e-5)
    assert check(recipe({"d": 1.0}), base, vectors) == []
    export(recipe({"d": 1.0}), base, vectors, tmp_path / "out")
    assert set(Checkpoint(tmp_path / "out")) == set(base)
    minus = Combined("0", [(1.0, one), (-1.0, one)])
    assert all(not minus[name].any() for name in base)


def test_blocks_do_not_change_the_bits(llama, tuned, bits):
    base = llama()
    both = Combined(
        "d",
        [
            (0.3, DistributionVector("a", base, tuned(base, 1))),
            (-0.7, DistributionVector("b", base, tuned(base, 2))),
        ],
    )
    name = "lm_head.weight"
    parts = [both.block(name, start, min(start + 13, 217)) for start in range(0, 217, 13)]
    assert bits(torch.cat(parts), both[name].flatten())


def test_combinations_of_combinations(llama, tuned):
    base = llama()
    a, b = (DistributionVector(str(i), base, tuned(base, i)) for i in (1, 2))
    inner = Combined("i", [(1.0, a), (-1.0, b)])
    outer = Combined("o", [(2.0, inner), (2.0, b)])
    torch.testing.assert_close(outer["lm_head.weight"], 2 * a["lm_head.weight"])


def test_digests_tell_coefficients_order_and_vectors_apart(llama, tuned):
    base = llama()
    a, b = (DistributionVector(str(i), base, tuned(base, i)) for i in (1, 2))
    a.digest, b.digest, a.identity, b.identity = "a", "b", "x", "y"
    terms = [[(1.0, a), (-1.0, b)], [(1.0, a), (1.0, b)], [(1.0, b), (-1.0, a)], [(1.0, a)]]
    assert len({Combined("d", each).digest for each in terms}) == 4
    assert Combined("d", terms[0]).digest == Combined("e", [(1, a), (-1, b)]).digest
    assert Combined("d", terms[0]).digest != Combined("d", terms[0]).identity


@pytest.mark.parametrize("terms", [[], [(math.nan, None)], [(math.inf, None)]])
def test_what_is_no_sum_is_refused(terms):
    with pytest.raises(ValueError, match="d: expected vectors with finite coefficients"):
        Combined("d", terms)


@pytest.mark.parametrize("other", [{"v": torch.zeros(2)}, {"w": torch.zeros(2, 1)}])
def test_vectors_of_other_bases_are_refused_by_name(other):
    base = {"w": torch.tensor([1.0, 1.0])}
    strange = DistributionVector(
        "strange", other, {name: value + 1 for name, value in other.items()}
    )
    with pytest.raises(
        MismatchError,
        match=r"strange changes '[wv]', which the base of a lacks or has in another shape",
    ):
        Combined("d", [(1.0, vector("a", base, 2.0, 1.0)), (1.0, strange)])


def test_a_sum_of_adapters_with_the_numbers_written_out(tmp_path):
    weights = torch.tensor([[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]])
    base = {"up.weight": weights, "out.weight": weights}  # two names of one tensor
    factors = {
        "a": ([[1.0], [2.0]], [[1.0, 0.0, 2.0]]),  # Δa = 2 · B·A = [[2, 0, 4], [4, 0, 8]]
        "b": (
            [[1.0, 0.0], [0.0, 3.0]],
            [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        ),  # [[1, 1, 0], [0, 0, 3]]
    }
    terms = []
    for (name, (left, right)), factor in zip(factors.items(), (0.5, -2.0), strict=True):
        (tmp_path / name).mkdir()
        at = "base_model.model.up.lora_"
        tensors = {f"{at}A.weight": torch.tensor(right), f"{at}B.weight": torch.tensor(left)}
        save_file(tensors, tmp_path / name / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
        terms.append(WeightedAdapter(factor, LoraVector(tmp_path / name, base), "up.weight"))
    total = AdapterSum("out.weight", terms)
    assert total["out.weight"].tolist() == [[-1.0, -2.0, 2.0], [2.0, 0.0, -2.0]]
    assert total.block("out.weight", 2, 4).tolist() == [2.0, 2.0]
    # −1.5 Θ + the sum of the deltas
    assert total.weights_block("out.weight", 0, 6).tolist() == [-4.0, -5.0, -1.0, -4.0, -6.0, -8.0]
    assert (list(total), len(total), total.name) == (["out.weight"], 1, "a + b")
    assert "out.weight" in total and "up.weight" not in total
