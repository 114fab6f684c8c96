"""What a model is given when somebody asks it: a text to continue, or a chat up to the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from corpus.chat_template import ChatWriter, has_template
from corpus.chat_tokens import chat_of, first_answer, prompt_text
from corpus.errors import CorpusError
from corpus.messages import Message
from corpus.records import Chat, Example, Record


class Prompt(NamedTuple):
    """A prompt that a dataset offers."""

    text: str
    """What a person reads: the prompt of an example, or the last message before the answer."""
    written: str = ""
    """What the chat template writes for a chat up to its first answer; "" for an example."""
    before: int = 0
    """Number of messages before the text, which the model is given too."""


Form = Literal["in the chat template", "as plain text", "with its own special tokens"]
"""How a question is sent to a model, in the words that a person reads beside the answer."""


class Asked(NamedTuple):
    """A text for a model to continue, and the form in which it asks."""

    text: str
    form: Form

    @property
    def written(self) -> bool:
        """Whether the text has all its special tokens already, and may get no begin token."""
        return self.form != "as plain text"


def prompts(records: Sequence[Record], tokenizer: Any, count: int) -> tuple[Prompt, ...]:
    """Returns the prompts of up to `count` records.

    Raises:
        CorpusError: the tokenizer's template cannot write a chat.
    """
    found: list[Prompt] = []
    for record in records:
        if len(found) == count:
            break
        chat = chat_of(record, tokenizer)
        if chat is not None:
            # A chat that begins with an answer asks nothing.
            if at := first_answer(chat):
                last = chat.messages[at - 1]
                found.append(Prompt(last.content, prompt_text(chat, tokenizer), at - 1))
        elif isinstance(record, Example):
            found.append(Prompt(record.prompt))
    return tuple(found)


def ask(text: str, offered: Sequence[Prompt], tokenizer: Any, *, plain: bool = False) -> Asked:
    """Returns what a model is given for a text that a person typed or chose.

    A text that is offered is given as its dataset has it. Any other text becomes a message of the
    user in the tokenizer's chat template, if it has one. A text with special tokens of the
    tokenizer is then taken as it is: whoever writes them has written the template.

    Args:
        text: the text.
        offered: the prompts of the open datasets; empty if there are none.
        tokenizer: the tokenizer of the model.
        plain: whether the text alone is given, whatever its dataset or the template would make of
            it. Without a chat template this makes no difference.

    Raises:
        CorpusError: the template cannot write a message of the user alone.
    """
    if plain or not has_template(tokenizer):
        return Asked(text, "as plain text")
    for prompt in offered:
        if prompt.text == text and prompt.written:
            return Asked(prompt.written, "in the chat template")
        if prompt.text == text:
            return Asked(text, "as plain text")
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if any(token in text for token in special if token.strip()):
        return Asked(text, "with its own special tokens")
    # A chat has to end with an answer, which is not written here.
    chat = Chat((Message("user", text), Message("assistant", "…")))
    try:
        return Asked(ChatWriter.of(chat, tokenizer).text(1, prompt=True), "in the chat template")
    except CorpusError as error:
        raise CorpusError(
            f"the prompt cannot be asked as a message: {error} Or ask it as plain text."
        ) from None
