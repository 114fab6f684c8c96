"""The distribution vector Δ_i = Θ_i − Θ, and what does not fit together."""

import pytest
import torch

from merging import Checkpoint, DistributionVector, MismatchError, Vector, open_vector
from merging.dtypes import working_dtype


def test_the_difference_with_the_numbers_written_out():
    base = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    vector = DistributionVector("a", base, {"w": torch.tensor([[1.5, 2.0], [2.0, 8.0]])})
    assert list(vector) == ["w"]
    assert vector["w"].tolist() == [[0.5, 0.0], [-1.0, 4.0]]
    assert vector.block("w", 1, 3).tolist() == [0.0, -1.0]
    assert vector.weights_block("w", 1, 3).tolist() == [2.0, 2.0]
    assert (len(vector), vector.path, vector.digest, vector.name) == (1, None, "", "a")


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64,) * 2,
    ],
)
def test_deltas_are_float32_or_float64_where_the_base_is(dtype, wanted, llama, tuned):
    base = llama(dtype=dtype)
    vector = DistributionVector("a", base, tuned(base, 1))
    assert {value.dtype for value in vector.values()} == {wanted} == {working_dtype(dtype)}
    for name in base:
        assert torch.equal(vector[name], vector.tuned[name].to(wanted) - base[name].to(wanted))


def test_integers_and_buffers_are_not_in_it():
    base = {
        "w": torch.ones(2),
        "steps": torch.tensor([1]),
        "rotary.inv_freq": torch.ones(3),
        "h.0.attn.bias": torch.ones(1, 1, 2, 2),
    }
    vector = DistributionVector("a", base, {name: value + 1 for name, value in base.items()})
    assert list(vector) == ["w"]
    assert "steps" not in vector
    assert "w" in vector


def test_buffers_may_be_missing_or_extra_on_either_side():
    base = {"w": torch.ones(2), "rotary.inv_freq": torch.ones(3)}
    assert list(DistributionVector("a", base, {"w": torch.ones(2)})) == ["w"]
    assert list(DistributionVector("a", {"w": torch.ones(2)}, base)) == ["w"]


def test_path_and_digest_come_from_the_checkpoint(tmp_path, llama, write):
    base = Checkpoint(write(tmp_path / "base", llama()))
    vector = open_vector(write(tmp_path / "cot", llama(1)), base)
    assert (vector.name, vector.path) == ("cot", tmp_path / "cot")
    assert vector.digest == Checkpoint(tmp_path / "cot").digest


def test_a_vector_is_never_taken_for_weights(llama, tuned):
    base = llama()
    vector = DistributionVector("a", base, tuned(base, 1))
    for pair in ((vector, base), (base, vector)):
        with pytest.raises(
            TypeError, match="made from two sets of weights; a vector of deltas was given"
        ):
            DistributionVector("b", *pair)
    assert isinstance(vector, Vector)


# --------------------------------------------------------------------------------------------------------------- ties


def test_a_head_that_only_the_base_stores_is_taken_from_the_tie(llama, tuned):
    base = llama(tied=True)
    stored = base | {"lm_head.weight": base["model.embed_tokens.weight"].clone()}
    fine = tuned(base, 1)
    vector = DistributionVector("a", stored, fine)
    assert torch.equal(
        vector["lm_head.weight"],
        fine["model.embed_tokens.weight"] - base["model.embed_tokens.weight"],
    )


def test_a_head_that_only_the_checkpoint_stores_is_passed_over_where_it_is_the_tie(llama, tuned):
    base = llama(tied=True)
    fine = tuned(base, 1)
    vector = DistributionVector(
        "a", base, fine | {"lm_head.weight": fine["model.embed_tokens.weight"].clone()}
    )
    assert set(vector) == set(base)


@pytest.mark.parametrize("rows", [31, 16_411])  # the second is compared by a probe first
def test_a_head_that_is_tied_in_one_and_trained_apart_in_the_other_is_refused(rows, llama, tuned):
    base = llama(tied=True) | {"model.embed_tokens.weight": torch.randn(rows, 7)}
    fine = tuned(base, 1)
    apart = fine["model.embed_tokens.weight"].clone()
    apart[rows - 1, 6] += 1.0
    with pytest.raises(
        MismatchError,
        match=r"it has lm_head.weight, which the base lacks. One of the two ties its output head",
    ):
        DistributionVector("a", base, fine | {"lm_head.weight": apart})
    with pytest.raises(MismatchError, match=r"it lacks lm_head.weight. One of the two ties"):
        DistributionVector("a", base | {"lm_head.weight": apart}, fine)


def test_equal_biases_and_equal_norms_are_no_ties():
    """All biases zero and all norms one are equal without being the same tensor: none may stand in for another."""
    base = {
        "q.bias": torch.zeros(5),
        "k.bias": torch.zeros(5),
        "n1.weight": torch.ones(5),
        "n2.weight": torch.ones(5),
    }
    for missing in ("q.bias", "n2.weight"):
        fine = {name: torch.randn(5) for name in base if name != missing}
        with pytest.raises(
            MismatchError,
            match=rf"it lacks {missing}. It was saved without a part that the base has",
        ):
            DistributionVector("a", base, fine)


def test_equal_constant_matrices_are_no_ties():
    base = {"a.weight": torch.zeros(5, 3), "b.weight": torch.zeros(5, 3)}
    with pytest.raises(MismatchError, match=r"lacks b.weight"):
        DistributionVector("a", base, {"a.weight": torch.randn(5, 3)})


# ---------------------------------------------------------------------------------------------------------- mismatches


def test_another_vocabulary_is_refused_with_both_shapes(tmp_path, llama, write):
    base = Checkpoint(write(tmp_path / "base", llama()))
    grown = llama(1) | {"model.embed_tokens.weight": torch.ones(37, 7)}
    with pytest.raises(
        MismatchError,
        match=r"grown \(.*grown\): tensor 'model.embed_tokens.weight' has shape 37×7, the base has 31×7. "
        r"The vocabularies differ: fine-tuning added tokens.*resize the checkpoint's embeddings",
    ):
        open_vector(write(tmp_path / "grown", grown), base)


@pytest.mark.parametrize("shape", [(13, 7), (11, 7, 1), (7, 11), ()])
def test_another_shape_elsewhere_is_another_base(shape, llama):
    base = llama()
    other = base | {"model.layers.1.mlp.up_proj.weight": torch.ones(shape)}
    by = "×".join(map(str, shape)) or "scalar"
    with pytest.raises(
        MismatchError,
        match=rf"'model.layers.1.mlp.up_proj.weight' has shape {by}, the base has 11×7. It is not a fine-tune of this base",
    ):
        DistributionVector("a", base, other)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_a_quantised_checkpoint_is_refused(dtype, llama):
    base = llama()
    name = "model.layers.0.mlp.up_proj.weight"
    word = str(dtype).removeprefix("torch.")
    with pytest.raises(
        MismatchError,
        match=rf"a: tensor '{name}' is stored as {word}, the base as float32: quantised",
    ):
        DistributionVector("a", base, base | {name: torch.zeros(11, 7).to(dtype)})


def test_a_quantised_base_is_refused(llama):
    base = llama() | {"q.weight": torch.zeros(3, 5).to(torch.float8_e5m2)}
    with pytest.raises(
        MismatchError,
        match=r"the base holds 'q.weight' in torch.float8_e5m2: quantised weights cannot",
    ):
        DistributionVector("a", base, base)


@pytest.mark.parametrize(
    ("lacks", "has", "message"),
    [
        # A value head of a PPO training, a reward head, a head of labels: nothing is tied here.
        (
            [],
            {"v_head.summary.weight": (1, 7), "v_head.summary.bias": (1,)},
            "only in the fine-tune",
        ),
        ([], {"score.weight": (1, 7)}, "only in the fine-tune"),
        (
            [],
            {"reward_head.0.weight": (7, 7), "reward_head.2.weight": (1, 7)},
            "only in the fine-t",
        ),
        ([], {"classifier.weight": (3, 7)}, "only in the fine-tune"),
        (["lm_head.weight"], {"score.weight": (2, 7)}, "Their heads are for different tasks"),
        (["lm_head.weight"], {"qa_outputs.bias": (2,)}, "Their heads are for different tasks"),
        (["model.norm.weight"], {}, "It was saved without a part that the base has"),
        (["lm_head.weight"], {}, "One of the two ties its output head"),
        ([], {"extra_head.weight": (31, 7)}, "One of the two ties its output head"),
        (["model.layers.0.mlp.up_proj.weight"], {"score.weight": (2, 7)}, "choose the base that"),
    ],
)
def test_a_head_is_not_blamed_on_ties(lacks, has, message, llama):
    base, tuned = llama(), llama(1)
    for name in lacks:
        del tuned[name]
    random = torch.Generator().manual_seed(2)
    tuned |= {name: torch.randn(shape, generator=random) for name, shape in has.items()}
    with pytest.raises(MismatchError, match=message):
        DistributionVector("a", base, tuned)
