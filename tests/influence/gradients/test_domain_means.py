"""The mean gradient of a domain is the mean of its examples' gradients, each counting alike."""

import pytest
import torch

from corpus.records import Example
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.domain_means import mean_gradient
from influence.gradients.examples import read_examples
from influence.gradients.one_by_one import one_by_one

# Completions of unequal lengths: a mean over tokens would be another number.
RECORDS = [Example("ab", " " + "c" * length) for length in (1, 2, 3, 5, 11)]


@pytest.mark.parametrize("lora", [False, True])
def test_the_mean_over_examples(build, tokens, lora):
    model = build("llama", torch.float64, lora)
    examples = read_examples(RECORDS, tokens, batch_tokens=20)
    assert 1 < len(examples.batches) < len(RECORDS)
    seen = []
    mean = mean_gradient(model, examples, progress=lambda *done: seen.append(done))
    alone = list(one_by_one(model, examples))
    assert list(mean) == list(alone[0].names)
    for name, gradient in mean.items():
        each = torch.cat([example.of(name) for example in alone])
        torch.testing.assert_close(gradient, each.mean(0), rtol=1e-9, atol=1e-14)
    assert seen[-1] == (5, 5) and len(seen) == len(examples.batches)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_in_float32_whatever_the_dtype_of_the_weights(build, tokens):
    model = build("llama", torch.bfloat16)
    mean = mean_gradient(model, read_examples(RECORDS, tokens))
    assert {gradient.dtype for gradient in mean.values()} == {torch.float32}


def test_it_can_be_stopped_between_batches(build, tokens):
    examples = read_examples(RECORDS, tokens, batch_tokens=1)
    answers = iter([False, False, True])
    with pytest.raises(InfluenceStopped, match="stopped after 2 of 5 examples"):
        mean_gradient(build("llama"), examples, should_stop=lambda: next(answers))


def test_a_model_in_training_mode_or_of_another_tokenizer_is_refused(build, tokens):
    examples = read_examples(RECORDS, tokens)
    with pytest.raises(InfluenceError, match="training mode"):
        mean_gradient(build("llama").train(), examples)
    with pytest.raises(InfluenceError, match="token 60 occurs in the data, the model knows 53"):
        mean_gradient(build("llama"), examples._replace(largest=60))
