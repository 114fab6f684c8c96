"""Examples are those of training; what has no loss is refused by name."""

import pytest
import torch

from corpus.errors import CorpusError
from corpus.messages import Message
from corpus.records import Chat, Example
from influence.errors import InfluenceError
from influence.gradients.examples import mean_losses, numbers, read_examples

RECORDS = [
    Example("abc", " de", line=11),  # 1 + 3 + 3 + 1 tokens, of which 4 are learned
    Example("abcdefgh", " ijk", line=12),  # 1 + 8 + 4 + 1, of which 5 are learned
    Example("a", " b", line=13),  # 1 + 1 + 2 + 1, of which 3 are learned
]


def test_every_example_is_in_one_batch_and_keeps_its_number(tokens):
    examples = read_examples(RECORDS, tokens, batch_tokens=16)
    assert (examples.records, examples.tokens) == ((0, 1, 2), (4, 5, 3))
    assert (examples.longest, examples.largest) == (14, 14)  # 14 tokens; "k" is 14
    assert [numbers(batch).tolist() for batch in examples.batches] == [[1], [0, 2]]
    (long, short) = examples.batches
    assert long.ids.tolist() == [[1, *range(4, 12), 3, 12, 13, 14]]  # the last is only predicted
    assert short.targets.tolist() == [3, 7, 8, 2, 3, 5, 2]


def test_the_loss_is_the_mean_over_the_learned_tokens(build, tokens):
    model = build("llama", torch.float64)
    (batch,) = read_examples(RECORDS, tokens, batch_tokens=1000).batches
    losses = mean_losses(model, batch)
    assert losses.shape == (3,) and losses.requires_grad
    for row, number in enumerate(numbers(batch)):
        record = RECORDS[number]
        prompt = tokens(record.prompt)["input_ids"]
        ids = [*prompt, *tokens(record.completion, add_special_tokens=False)["input_ids"], 2]
        logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        learned = [-logs[at - 1, ids[at]] for at in range(len(prompt), len(ids))]
        torch.testing.assert_close(losses[row], sum(learned) / len(learned), rtol=1e-12, atol=0)


def test_what_is_too_long_is_refused_by_its_line(tokens):
    with pytest.raises(InfluenceError, match=r"line 12: is longer than 9 tokens \(14\)"):
        read_examples(RECORDS, tokens, max_length=9)
    with pytest.raises(InfluenceError, match="2 of 3 records cannot be used"):
        read_examples(RECORDS, tokens, max_length=7)
    examples = read_examples(RECORDS, tokens, max_length=9, too_long="drop")
    assert (examples.records, examples.longest) == ((0, 2), 8)
    with pytest.raises(InfluenceError, match="each of the 3 examples is longer than 3 tokens"):
        read_examples(RECORDS, tokens, max_length=3, too_long="drop")


def test_a_row_whose_labels_are_all_cut_off_is_refused_by_its_line(tokens):
    cut = read_examples(RECORDS, tokens, max_length=10, too_long="cut")
    assert (cut.records, cut.tokens, cut.longest) == ((0, 1, 2), (4, 1, 3), 10)
    with pytest.raises(
        InfluenceError, match=r"line 12: has no token to learn within 9 tokens.*0/0"
    ):
        read_examples(RECORDS, tokens, max_length=9, too_long="cut")


def test_nothing_is_refused(tokens):
    with pytest.raises(InfluenceError, match="there are no examples"):
        read_examples([], tokens)


def test_a_chat_without_a_template_is_refused_by_corpus(tokens):
    chat = Chat((Message("user", "ab"), Message("assistant", "c")), line=5)
    with pytest.raises(CorpusError, match="line 5"):
        read_examples([chat], tokens)


def test_examples_are_checked_against_the_model(build, tokens):
    examples = read_examples(RECORDS, tokens)
    model = build("llama")
    examples.check(model)
    with pytest.raises(InfluenceError, match="token 53 occurs in the data, the model knows 53"):
        examples._replace(largest=53).check(model)
    with pytest.raises(InfluenceError, match="an example has 62 tokens, the model holds 61"):
        examples._replace(longest=62).check(model)
