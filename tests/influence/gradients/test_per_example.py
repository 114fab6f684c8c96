"""Gradients of examples in batches equal those of a pass for each example, whatever the batch."""

import pytest
import torch
from torch import nn

from corpus.records import Example
from influence.errors import InfluenceError
from influence.gradients.examples import read_examples
from influence.gradients.one_by_one import one_by_one
from influence.gradients.per_example import per_example

TEXTS = ("ab", "hello there", "x", "the sum of", "a", "abcdefghijk", "yes no yes")
RECORDS = [Example(text, " " + text[::-1][: 2 + 3 * (n % 3)]) for n, text in enumerate(TEXTS)]


def gathered(module, examples, way=per_example):
    """Number of an example -> (its loss, its gradients by name)."""
    return {
        int(number): (batch.losses[row], {name: batch.of(name)[row] for name in batch.names})
        for batch in way(module, examples)
        for row, number in enumerate(batch.numbers)
    }


def assert_same(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for number, (loss, gradients) in theirs.items():
        torch.testing.assert_close(ours[number][0], loss, rtol=tolerance, atol=0)
        assert list(ours[number][1]) == list(gradients)
        whole = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        for name, gradient in gradients.items():
            mine = ours[number][1][name]
            assert (mine.shape, mine.dtype) == (gradient.shape, gradient.dtype)
            # In parts of this parameter's norm; rounding of a gradient that is next to zero counts
            # in parts of the whole.
            limit = tolerance * max(gradient.norm(), 1e-3 * whole)
            assert (mine - gradient).norm() <= limit, (number, name)


SINGLE, DOUBLE = torch.float32, torch.float64


@pytest.mark.parametrize(
    ("family", "lora", "dtype"),
    [
        ("llama", False, SINGLE),
        ("llama", False, DOUBLE),
        ("llama-tied", False, DOUBLE),
        ("llama", True, SINGLE),
        ("llama", True, DOUBLE),
        ("gpt2", False, SINGLE),  # Conv1D, biases, a tied head, positions that are looked up once
        ("gpt2", False, DOUBLE),
        ("gpt2", True, DOUBLE),
        ("qwen2", False, DOUBLE),
        ("gemma3_text", False, SINGLE),  # its norms compute in float32 whatever the model's dtype
    ],
)
def test_gradients_of_a_batch_are_those_of_each_example_alone(build, tokens, family, lora, dtype):
    model = build(family, dtype, lora)
    examples = read_examples(RECORDS, tokens, batch_tokens=1000)
    assert len(examples.batches) == 1
    theirs = gathered(model, examples, one_by_one)
    assert_same(gathered(model, examples), theirs, {SINGLE: 1e-5, DOUBLE: 1e-10}[dtype])
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    assert list(theirs[0][1]) == names
    assert all(value.grad is None for value in model.parameters())


def test_batches_order_and_padding_change_nothing(build, tokens):
    model = build("llama", torch.float64, lora=True)
    whole = gathered(model, read_examples(RECORDS, tokens, batch_tokens=1000))
    for size in (1, 30, 60):
        examples = read_examples(RECORDS, tokens, batch_tokens=size)
        assert len(examples.batches) > 1
        assert_same(gathered(model, examples), whole, 1e-10)
    order = [4, 2, 6, 0, 1, 5, 3]
    moved = gathered(model, read_examples([RECORDS[n] for n in order], tokens, batch_tokens=1000))
    assert_same({n: moved[order.index(n)] for n in range(7)}, whole, 1e-10)
    # A longer example makes more padding for the others.
    longer = [*RECORDS, Example("a" * 30, " b")]
    padded = gathered(model, read_examples(longer, tokens, batch_tokens=1000))
    padded.pop(7)
    assert_same(padded, whole, 1e-10)


def test_a_parameter_can_be_asked_for_some_examples(build, tokens):
    model = build("gpt2")
    (batch,) = per_example(model, read_examples(RECORDS, tokens, batch_tokens=1000))
    for name in batch.names:
        assert torch.equal(batch.of(name, slice(2, 5)), batch.of(name)[2:5])
        assert batch.of(name, slice(7, 9)).shape[0] == 0
    with pytest.raises(InfluenceError, match=r"no parameter 'wpe' is trained; did you mean|known"):
        batch.of("wpe")


def test_while_B_is_zero_the_gradients_of_A_vanish(build, tokens):
    """The step of an adapter that was never trained has B only: an epoch of warm-up comes first."""
    model = build("llama", lora=True)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.zero_()
    (batch,) = per_example(model, read_examples(RECORDS, tokens, batch_tokens=1000))
    for name in batch.names:
        assert bool(batch.of(name).any()) == ("lora_B" in name), name


def test_a_base_in_bfloat16_has_gradients_of_its_adapter_in_float32(build, tokens):
    model = build("llama", lora=True)
    for value in model.parameters():
        if not value.requires_grad:
            value.data = value.data.to(torch.bfloat16)
    examples = read_examples(RECORDS, tokens, batch_tokens=1000)
    # Activations are rounded to 8 bits, in another way for each shape of a batch.
    theirs = gathered(model, examples, one_by_one)
    assert {value.dtype for value in theirs[0][1].values()} == {torch.float32}
    assert_same(gathered(model, examples), theirs, 0.05)


def test_whole_weights_in_bfloat16_have_gradients_in_float32(build, tokens):
    model = build("llama", torch.bfloat16)
    examples = read_examples(RECORDS, tokens, batch_tokens=1000)
    exact = gathered(model.float(), examples)
    assert_same(gathered(model.to(torch.bfloat16), examples), exact, 0.1)


def test_a_parameter_of_an_unknown_layer_is_refused_by_name(build, tokens):
    model = build("mixtral")
    examples = read_examples(RECORDS, tokens)
    message = r"model\.layers\.0\.mlp\.experts\.gate_up_proj of MixtralExperts.* one example at a"
    with pytest.raises(InfluenceError, match=message):
        next(per_example(model, examples))
    assert len(list(one_by_one(model, examples))) == len(RECORDS)


def test_a_position_embedding_that_reads_more_than_positions_is_refused_by_name(build, tokens):
    model = build("opt")
    with pytest.raises(InfluenceError, match=r"embed_positions \(OPTLearnedPositionalEmbedding\)"):
        next(per_example(model, read_examples(RECORDS, tokens)))


class Borrowing(nn.Module):
    """A head that also multiplies by another layer's weight, which no tap sees."""

    def __init__(self, head, lender):
        super().__init__()
        self.head, self.lender = head, [lender]

    def forward(self, inputs):
        return self.head(inputs) + (inputs @ self.lender[0].weight)[..., :1] * torch.arange(53)


def test_a_weight_that_is_used_outside_its_layer_is_refused_by_name(build, tokens):
    model = build("llama")
    model.lm_head = Borrowing(model.lm_head, model.model.layers[1].self_attn.o_proj).eval()
    message = r"gradients of model\.layers\.1\.self_attn\.o_proj\.weight in a batch do not add up"
    with pytest.raises(InfluenceError, match=message):
        next(per_example(model, read_examples(RECORDS, tokens)))


def test_a_model_in_training_mode_or_without_trained_parameters_is_refused(build, tokens):
    examples = read_examples(RECORDS, tokens)
    for way in (per_example, one_by_one):
        with pytest.raises(InfluenceError, match=r"training mode.*model\.eval\(\)"):
            next(way(build("llama").train(), examples))
        with pytest.raises(InfluenceError, match="no parameter of the model is trained"):
            next(way(build("llama").requires_grad_(False), examples))
