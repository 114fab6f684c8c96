"""Examples with their tokens: counts, names, and what is refused by name."""

from copy import deepcopy

import pytest

from corpus import Chat, Chosen, CorpusError, Example, Message, Source, write_jsonl, write_selection
from influence.errors import InfluenceError
from influence.selection.examples import encode_examples, load_examples


def test_counts_and_names_by_hand(letters):
    records = {"a": [Example("2+2=", "4", line=7), Example("1", "23")], "b": [Example("xyz", "ab")]}
    examples = encode_examples(records, letters)
    assert examples.names == ("a, line 7", "a, record 2", "b, record 1")
    assert examples.texts == ["2+2=4", "123", "xyzab"]
    assert [each.tokens for each in examples.examples] == [6, 4, 6]  # with the end token
    assert [each.supervised for each in examples.examples] == [2, 3, 3]
    assert [(each.source, each.number) for each in examples.examples] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
    ]
    assert examples.sources == ("a", "b") and len(examples) == 3
    assert examples.rows("a").tolist() == [0, 1] and examples.rows("b").tolist() == [2]


def test_what_is_too_long_is_left_out_and_counted_and_others_keep_their_numbers(letters):
    records = {"a": [Example("1234", "5"), Example("1", "2"), Example("1234567", "8")]}
    examples = encode_examples(records, letters, max_length=6)
    assert [each.number for each in examples.examples] == [0, 1]
    assert examples.left_out == {"a": 1}
    examples = encode_examples(records, letters, max_length=5)
    assert [each.number for each in examples.examples] == [1]
    assert examples.left_out == {"a": 2}


def test_the_tokenizers_limit_is_the_default(demo_tokenizer):
    long = Example("sea " * 300, " ship")
    examples = encode_examples({"a": [long, Example("sea", " ship")]}, demo_tokenizer)
    assert examples.left_out == {"a": 1} and demo_tokenizer.model_max_length == 256


def test_a_chat_with_an_example_for_each_answer_is_one_candidate(demo_tokenizer):
    """The template drops an earlier thought, so the chat becomes two examples."""
    forgetful = deepcopy(demo_tokenizer)
    forgetful.chat_template = (
        "{% for m in messages %}<s>{{ m.role }}</s>{{ m.content if loop.last else "
        "m.content.split('so. ')[-1] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant</s>{% endif %}"
    )
    turns = [Message("user", "two?"), Message("assistant", "so. two")] * 2
    examples = encode_examples({"a": [Chat(tuple(turns))]}, forgetful)
    (each,) = examples.examples
    assert len(each.encoded) == 2
    assert each.tokens == sum(len(part.ids) for part in each.encoded)
    assert each.supervised == sum(part.learned for part in each.encoded)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({}, "there are no examples"),
        ({"a": [Example("1", "2")], "sums": []}, "sums has no examples. Give it at least one"),
        ({"sums": [Example("12345", "6")]}, "sums: none of its 1 example fits in 5 tokens"),
    ],
)
def test_empty_sources_and_subtasks_are_refused_by_name(letters, records, words):
    with pytest.raises(InfluenceError, match=words):
        encode_examples(records, letters, max_length=5)


def test_a_record_without_a_token_to_learn_is_refused_by_name(letters):
    class Endless(type(letters)):
        eos_token_id = None

    records = {"sums": [Example("1", "2", line=1), Example("3", "", line=2)]}
    with pytest.raises(
        InfluenceError, match="sums, line 2: there is no token for the model to learn"
    ):
        encode_examples(records, Endless())


def test_a_chat_that_cannot_be_written_is_refused_with_its_source(letters):
    chat = Chat((Message("user", "2?"), Message("assistant", "two")))
    with pytest.raises(CorpusError, match="^talk: "):
        encode_examples({"talk": [chat]}, letters)


def test_sources_are_loaded_as_selections_number_them(letters, tmp_path):
    records = [Example(f"{n}+", f"{n}") for n in range(9)]
    write_jsonl(tmp_path / "sums.jsonl", records)
    half = Source("sums", str(tmp_path / "sums.jsonl"), share="1/2", seed=3)
    examples = load_examples({"sums": half}, letters)
    path = tmp_path / "best.selection.json"
    made = write_selection(path, {"sums": half}, [Chosen("sums", 2, 1.0)])
    assert made.records[0] == examples.examples[2].record
    with pytest.raises(InfluenceError, match="source best: .* is a selection. Choose from its own"):
        load_examples({"best": Source("best", str(path))}, letters)
