"""The reference: each example's loss and gradients are those of transformers' own loss."""

import torch

from corpus.records import Example
from influence.gradients.examples import read_examples
from influence.gradients.one_by_one import one_by_one

RECORDS = [Example("ab", " c"), Example("hello", " there"), Example("x", " yes no")]


def test_each_example_has_the_loss_and_gradients_of_transformers(build, tokens):
    """Labels as the trainer gives them: −100 where nothing is learned."""
    model = build("llama")
    found = {int(each.numbers): each for each in one_by_one(model, read_examples(RECORDS, tokens))}
    assert len(found) == 3
    for number, record in enumerate(RECORDS):
        prompt = tokens(record.prompt)["input_ids"]
        completion = tokens(record.completion, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*prompt, *completion, tokens.eos_token_id]])
        labels = ids.clone()
        labels[0, : len(prompt)] = -100
        model.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.testing.assert_close(found[number].losses[0], loss.detach(), rtol=1e-5, atol=0)
        for name, parameter in model.named_parameters():
            (gradient,) = found[number].of(name)
            assert (gradient - parameter.grad).norm() <= 1e-5 * parameter.grad.norm(), name
    model.zero_grad()


def test_a_parameter_that_no_loss_depends_on_has_zeros(build, tokens):
    model = build("llama")
    model.unused = torch.nn.Linear(2, 3)
    model.eval()
    (first, *_) = one_by_one(model, read_examples(RECORDS, tokens))
    assert torch.equal(first.of("unused.weight"), torch.zeros(1, 3, 2))
