"""Encodes a chat by the tokenizer's own template and supervises only the assistant's turns.

Which tokens are the assistant's is found in the first of these ways that works:

1. The template marks them with {% generation %}, and loses nothing of them.
2. By prefixes. The tokens of a turn are those that the model must write after the prompt that the
   same template makes for it:

       before = template(messages before the turn, with the generation prompt)
       after  = template(messages up to and with the turn)
       supervised: positions len(before) to len(after) of the whole chat

   This works if `before` and `after` are, token by token, the beginning of the whole chat.
3. Some templates write an answer in another way once the chat goes on, for example without its
   thoughts. Then each answer becomes an example of its own: the chat up to this answer, as the
   model sees it when it has to write it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple

from corpus.chat_template import THOUGHTS, ChatWriter, Tokenizer, has_template
from corpus.errors import CorpusError, raise_all
from corpus.messages import Message
from corpus.records import Chat, Record, place


class ChatTokens(NamedTuple):
    """The tokens of a chat, or of a chat up to one of its answers."""

    ids: list[int]
    supervised: list[bool]
    """Per token, whether the loss counts it."""
    stops: bool
    """Whether the last answer ends in a token that is more than text, so that the model learns to
    stop.
    """


def chat_tokens(chat: Chat, tokenizer: Tokenizer) -> list[ChatTokens]:
    """Returns the tokens of a chat: of all of it, or of its `answers` one by one.

    White space that a template writes after the token that ends a turn is supervised only if the
    template marks it, because generation has stopped by then.

    Args:
        chat: the chat.
        tokenizer: the base's tokenizer, with a chat template.

    Raises:
        CorpusError: there is no template, the template refuses the chat, leaves out a part of it,
            or does not show which tokens are the assistant's.
    """
    writer = ChatWriter.of(chat, tokenizer)
    learned = [at for at, message in enumerate(chat.messages) if _is_learned(message)]
    found = _by_marks(writer, learned) or _by_prefixes(writer, learned)
    if isinstance(found, ChatTokens):
        return [found]
    parts = answers(chat)
    # The chat is its own last part, which cannot be split any further.
    if parts == [chat] or learned[0] == 0:
        raise CorpusError(found)
    return [tokens for part in parts for tokens in chat_tokens(part, tokenizer)]


def chat_of(record: Record, tokenizer: Tokenizer) -> Chat | None:
    """Returns a record as the chat that is encoded; None if it has a prompt and a completion.

    An instruction is a chat where the tokenizer has a template.
    """
    if isinstance(record, Chat):
        return record
    if record.instruction is None or not has_template(tokenizer):
        return None
    return Chat(record.instruction.messages, record.label, line=record.line)


def answers(chat: Chat) -> list[Chat]:
    """Returns one chat for each message that is learned: the chat up to it, in which it is last."""
    messages = chat.messages
    return [
        replace(
            chat,
            part=True,
            messages=(
                *(before._replace(learn=before.role != "assistant") for before in messages[:at]),
                messages[at],
            ),
        )
        for at, message in enumerate(messages)
        if _is_learned(message)
    ]


def prompt_text(chat: Chat, tokenizer: Tokenizer) -> str:
    """Returns what a model sees before the first answer of a chat that it should learn.

    Raises:
        CorpusError: as chat_tokens.
    """
    writer = ChatWriter.of(chat, tokenizer)
    first = first_answer(chat)
    # A chat may begin with the assistant, and a template cannot write no messages.
    return writer.text(first or 1, prompt=first > 0)


def first_answer(chat: Chat) -> int:
    """Returns the number of the first message that is learned, counted from 0."""
    return next(at for at, message in enumerate(chat.messages) if _is_learned(message))


def check_template(tokenizer: Tokenizer, records: Iterable[Record]) -> None:
    """Checks that a tokenizer's template can encode the chats among the records.

    It encodes one chat per sequence of roles, which is cheap enough to do before a run starts.
    encode_all checks every chat.

    Raises:
        CorpusError: as chat_tokens; names the first ten records by their lines, and counts all
            that have the roles of a chat that was refused.
    """
    refusals: dict[object, str] = {}
    faults, total = [], 0
    for number, record in enumerate(records):
        total += 1
        chat = chat_of(record, tokenizer)
        if chat is None:
            continue
        # Templates refuse by the order of roles, such as two turns of the user in a row, and by
        # fields that they do not know.
        kind = (
            bool(chat.tools),
            tuple((message.role, message.learn, bool(message.more)) for message in chat.messages),
        )
        if kind not in refusals:
            refusals[kind] = ""
            try:
                chat_tokens(chat, tokenizer)
            except CorpusError as error:
                refusals[kind] = str(error)
        if refusals[kind]:
            faults.append(f"{place(record, number)}: {refusals[kind]}")
    raise_all(faults, total)


def _is_learned(message: Message) -> bool:
    return message.role == "assistant" and message.learn


def _by_marks(writer: ChatWriter, learned: Sequence[int]) -> ChatTokens | None:
    """Returns the tokens with the template's own marks; None if it has none that can be used."""
    # Only tokenizers in Rust know which characters a token comes from.
    if not writer.has_marks or not getattr(writer.tokenizer, "is_fast", False):
        return None
    if any(_lost_field(writer, at) for at in learned):
        return None
    ids, marks = writer.marked()
    own = [at for at, turn in enumerate(writer.turns) if turn["role"] == "assistant"]
    if len(learned) < len(own):
        stretches = {at for at, mark in enumerate(marks) if mark and not (at and marks[at - 1])}
        if len(stretches) != len(own):
            return None
        number = -1
        for at, mark in enumerate(marks):
            number += at in stretches
            marks[at] = mark and own[number] in learned
    return _checked(writer, ids, marks) if any(marks) else None


def _by_prefixes(writer: ChatWriter, learned: Sequence[int]) -> ChatTokens | str:
    """Returns the tokens of all turns that are learned, or why those of one cannot be told."""
    changes = (
        "what the template writes up to this message is not, token by token, the beginning of the "
        "whole chat"
    )
    texts = {}
    for at in learned:
        if at == 0:
            return _unknown(writer, at, "the chat begins with the assistant")
        if (field := _lost_field(writer, at)) is not None:
            return (
                f"the chat template of the base leaves out the {field} of messages[{at}] (roles "
                f"{writer.roles()}): the model would not learn it. Correct chat_template.jinja of "
                "the base, or remove it from the data."
            )
        texts[at] = writer.whole if at + 1 == len(writer.turns) else writer.text(at + 1)
        # Before anything is tokenised, because templates of this kind are common.
        if not writer.whole.startswith(texts[at]):
            return _unknown(writer, at, changes)
    ids = writer.ids(writer.whole)
    supervised = [False] * len(ids)
    for at in learned:
        after = ids if texts[at] == writer.whole else writer.ids(texts[at])
        start = _start(writer, at, ids)
        if start is None or not start < len(after) or ids[: len(after)] != after:
            return _unknown(writer, at, changes)
        for position in range(start, _end(writer.tokenizer, ids, start, len(after))):
            supervised[position] = True
    return _checked(writer, ids, supervised)


def _start(writer: ChatWriter, at: int, ids: list[int]) -> int | None:
    """Returns the position of the first token that the model writes; None if it cannot be told.

    Args:
        writer: the writer of the chat.
        at: number of the message.
        ids: token ids of the whole chat.
    """
    prompt = writer.text(at, prompt=True)
    before = writer.ids(prompt)
    # Compared as tokens: as a text the prompt may be the beginning of the chat while its last
    # token joins the answer, and the model would never see it so.
    if ids[: len(before)] == before or writer.whole.startswith(prompt):
        return len(before) if ids[: len(before)] == before else None
    # Some prompts go on in another way than the answer, for example with the beginning of a
    # thought. Then the answer begins where they part, after the messages before it.
    earlier = writer.ids(writer.text(at))
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False))
    common = sum(1 for _ in pairs)
    return common if ids[: len(earlier)] == earlier and common >= len(earlier) else None


def _end(tokenizer: Any, ids: list[int], start: int, end: int) -> int:
    """Returns where a turn ends: after its last special token if only white space follows it.

    Otherwise it ends at `end`.
    """
    last = end
    while last > start and not tokenizer.decode([ids[last - 1]]).strip():
        last -= 1
    return last if last > start and _is_special(tokenizer, ids[last - 1]) else end


def _checked(writer: ChatWriter, ids: list[int], supervised: list[bool]) -> ChatTokens:
    """Returns the tokens, of which at least one is supervised."""
    last = len(supervised) - 1 - supervised[::-1].index(True)
    while last and supervised[last] and not writer.tokenizer.decode([ids[last]]).strip():
        last -= 1
    return ChatTokens(ids, supervised, _is_special(writer.tokenizer, ids[last]))


def _is_special(tokenizer: Any, token: int) -> bool:
    """Returns whether a token stands for more than its text."""
    return not tokenizer.decode([token], skip_special_tokens=True)


def _lost_field(writer: ChatWriter, at: int) -> str | None:
    """Returns which text of messages[at], an answer, is not written; None if all are."""
    turn = writer.turns[at]
    content = turn["content"]
    texts = {"content": content if isinstance(content, str) else content[0]["text"]}
    texts |= {name: turn[name] for name in THOUGHTS if name in turn}
    return next((name for name, text in texts.items() if not writer.writes(text)), None)


def _unknown(writer: ChatWriter, at: int, why: str) -> str:
    """Says why the assistant's tokens cannot be found, and what to do."""
    return (
        f"the assistant's tokens of messages[{at}] (roles {writer.roles()}) cannot be told from "
        f"the rest: {why}, and the template has no {{% generation %}} marks that tell them. "
        "Put {% generation %} … {% endgeneration %} around the assistant's text in "
        "chat_template.jinja of the base, or give the message weight 0, so that it is not learned."
    )
