"""What a model is given: offered prompts as their dataset has them, typed ones in the template."""

from typing import Any

import pytest

from corpus import Chat, CorpusError, Example, Message
from corpus.prompts import Asked, Prompt, ask, prompts

TEMPLATE = (
    "<b>{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PLAIN, TEMPLATED = "as plain text", "in the chat template"
RECORDS = [
    Example("the sky is", " blue"),
    Chat((Message("assistant", "hello"), Message("user", "the sum"), Message("assistant", "four"))),
    Chat(
        (
            Message("system", "be short"),
            Message("user", "the sky"),
            Message("assistant", "blue", learn=False),
            Message("user", "the sum"),
            Message("assistant", "four"),
        )
    ),
    Chat((Message("user", "the rain"), Message("assistant", "wet"))),
]


@pytest.fixture
def tokenizer(speaker: Any) -> Any:
    """A tokenizer without a chat template."""
    return speaker(None)


@pytest.fixture
def talking(speaker: Any) -> Any:
    """The same tokenizer with a chat template."""
    made = speaker(None)
    made.chat_template = TEMPLATE
    return made


def test_chats_offer_their_last_message_before_the_first_learned_answer(talking: Any) -> None:
    found = prompts(RECORDS, talking, 5)
    written = "<b>[system] be short\n[user] the sky\n[assistant] blue\n[user] the sum\n[assistant]"
    assert found == (
        Prompt("the sky is"),  # the chat that begins with an answer asks nothing
        Prompt("the sum", written, 3),
        Prompt("the rain", "<b>[user] the rain\n[assistant]"),
    )
    assert prompts(RECORDS, talking, 2) == found[:2]


def test_what_is_offered_is_given_as_its_dataset_has_it(talking: Any) -> None:
    offered = prompts(RECORDS, talking, 5)
    assert ask("the sum", offered, talking) == Asked(offered[1].written, TEMPLATED)
    assert ask("the sky is", offered, talking) == Asked("the sky is", PLAIN)


@pytest.mark.parametrize("offered", ["chats", "examples", "nothing"])
def test_a_typed_text_is_a_message_of_the_user(talking: Any, offered: str) -> None:
    records = {"chats": RECORDS, "examples": RECORDS[:1], "nothing": []}[offered]
    given = prompts(records, talking, 5)
    for text in ("the snow", " two\nlines ", "[user]", "ünï"):
        assert ask(text, given, talking) == Asked(f"<b>[user] {text}\n[assistant]", TEMPLATED)


def test_a_text_with_special_tokens_is_taken_as_it_is(talking: Any) -> None:
    text = f"the sky{talking.eos_token}"
    assert ask(text, (), talking) == Asked(text, "with its own special tokens")
    assert ask(text, (), talking).written
    talking.add_tokens(["<|turn|>"])
    assert ask("<|turn|>the sky", (), talking) == Asked(
        "<|turn|>the sky", "with its own special tokens"
    )


def test_without_a_template_a_text_is_continued(tokenizer: Any) -> None:
    offered = prompts(RECORDS[:1], tokenizer, 5)
    for given in ((), offered):
        for text in ("the snow", "the sky is"):
            assert ask(text, given, tokenizer) == Asked(text, PLAIN)
            assert ask(text, given, tokenizer, plain=True) == Asked(text, PLAIN)
    assert not ask("the snow", (), tokenizer).written  # it gets a begin token


def test_plain_text_is_the_text_alone_whatever_a_dataset_or_the_template_would_add(
    talking: Any,
) -> None:
    offered = prompts(RECORDS, talking, 5)
    for text in ("the sum", "the sky is", "the snow", f"the sky{talking.eos_token}"):
        assert ask(text, offered, talking, plain=True) == Asked(text, PLAIN)


def test_a_template_that_takes_no_message_of_the_user_alone_is_told(talking: Any) -> None:
    talking.chat_template = "{{ raise_exception('a system message is needed') }}"
    words = "cannot be asked as a message: .*a system message is.* Or ask it as plain text"
    with pytest.raises(CorpusError, match=words):
        ask("the snow", (), talking)
    assert ask("the snow", (), talking, plain=True) == Asked("the snow", PLAIN)
