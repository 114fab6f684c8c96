"""What a model is given: offered prompts as their dataset has them, typed ones in the template."""

from typing import Any

import pytest

from corpus import Chat, CorpusError, Example, Message
from corpus.prompts import Asked, Prompt, ask, prompts, uses_template

TEMPLATE = (
    "<b>{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
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
    assert ask("the sum", offered, talking) == Asked(offered[1].written, written=True)
    assert ask("the sky is", offered, talking) == Asked("the sky is", written=False)


@pytest.mark.parametrize("offered", ["chats", "nothing"])
def test_a_typed_text_is_a_message_of_the_user(talking: Any, offered: str) -> None:
    given = prompts(RECORDS, talking, 5) if offered == "chats" else ()
    assert uses_template(given, talking)
    for text in ("the snow", " two\nlines ", "[user]", "ünï"):
        assert ask(text, given, talking) == Asked(f"<b>[user] {text}\n[assistant]", written=True)


def test_a_text_with_special_tokens_is_taken_as_it_is(talking: Any) -> None:
    text = f"the sky{talking.eos_token}"
    assert ask(text, (), talking) == Asked(text, written=True)
    talking.add_tokens(["<|turn|>"])
    assert ask("<|turn|>the sky", (), talking) == Asked("<|turn|>the sky", written=True)


def test_without_template_or_with_examples_alone_a_text_is_continued(
    talking: Any, tokenizer: Any
) -> None:
    offered = prompts(RECORDS[:1], talking, 5)
    assert not uses_template(offered, talking) and not uses_template((), tokenizer)
    assert ask("the snow", offered, talking) == Asked("the snow", written=False)
    assert ask("the snow", (), tokenizer) == Asked("the snow", written=False)


def test_a_template_that_takes_no_message_of_the_user_alone_is_told(talking: Any) -> None:
    talking.chat_template = "{{ raise_exception('a system message is needed') }}"
    with pytest.raises(CorpusError, match="cannot be asked as a message: .*a system message is"):
        ask("the snow", (), talking)
