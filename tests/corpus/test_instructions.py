"""Instructions: a chat where the base has a chat template, and otherwise a prompt to complete."""

from dataclasses import replace

import pytest

from corpus import Chat, Example, Message, Source, encode, encode_all, load, split_chats
from corpus.chat_tokens import check_template
from corpus.prompts import Prompt, prompts
from corpus.records import record, row

LINE = {"instruction": "what is", "input": "the sum", "output": "four"}


@pytest.fixture
def alpaca():
    return record(LINE, "line 1")


def test_an_instruction_is_a_chat_where_the_base_has_a_template(speaker, alpaca):
    """Worked example: instruction and input are one message of the user."""
    tokenizer = speaker("chatml")
    chat = Chat((Message("user", "what is\nthe sum"), Message("assistant", "four")))
    assert encode(alpaca, tokenizer) == encode(chat, tokenizer)
    alone = record({"instruction": "what is", "output": " four\n"}, "line 1")
    chat = Chat((Message("user", "what is"), Message("assistant", " four\n")))
    assert encode(alone, tokenizer) == encode(chat, tokenizer)
    assert prompts([alpaca], tokenizer, 1)[0].text == "what is\nthe sum"
    assert split_chats([alpaca], tokenizer, {}) == [alpaca]


def test_without_template_it_is_a_prompt_to_complete(speaker, alpaca):
    tokenizer = speaker(None)
    plain = Example("Instruction: what is\nInput: the sum\nOutput:", " four")
    assert encode(alpaca, tokenizer) == encode(plain, tokenizer)
    assert prompts([alpaca], tokenizer, 1) == (Prompt(plain.prompt),)
    check_template(tokenizer, [alpaca])


def test_prompts_and_completions_never_use_the_template(speaker):
    example = Example("two and", " two")
    assert encode(example, speaker("chatml")) == encode(example, speaker(None))


def test_a_template_that_refuses_the_roles_is_told_before_all_is_encoded(speaker, alpaca):
    tokenizer = speaker("crashing")
    for check in (check_template, lambda made, found: encode_all(found, made)):
        with pytest.raises(ValueError, match="line 9: the chat template of the base refuses"):
            check(tokenizer, [replace(alpaca, line=9)])


def test_the_way_back_is_the_same_line(alpaca):
    assert row(alpaca) == LINE and record(row(alpaca), "") == alpaca
    alone = record(LINE | {"input": None, "task": "sums"}, "")
    assert row(alone) == LINE | {"input": "", "task": "sums"} and record(row(alone), "") == alone


def test_a_plain_source_leaves_the_template_out(tmp_path, speaker, alpaca):
    import json

    path = tmp_path / "alpaca.jsonl"
    path.write_text(json.dumps(LINE) + '\n{"prompt": "two", "completion": " two"}\n', "utf-8")
    (read, other), (plain, same) = (
        load(Source("alpaca", str(path), plain=plain)) for plain in (False, True)
    )
    assert read.instruction == alpaca.instruction and plain.instruction is None
    assert other == same and (plain.prompt, plain.completion) == (read.prompt, read.completion)
    tokenizer = speaker("chatml")
    assert encode(plain, tokenizer) == encode(plain, speaker(None)) != encode(read, tokenizer)
