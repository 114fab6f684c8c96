"""A chat to tokens by the tokenizer's own template, with only the assistant's turns supervised.

The supervised tokens of a turn are those that the model must write after the prompt which the same template makes for it:

    before = template(messages before the turn, with the generation prompt)
    after  = template(messages up to and with the turn)
    supervised: positions len(before) to len(after) of the whole chat

That holds only where `before` and `after` are, token by token, the beginning of the whole chat, which is checked for every
turn. Where they are not (a template that leaves the thoughts of earlier turns out, for one) the template's own
{% generation %} marks are used, if it has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from corpus.errors import CorpusError
from corpus.records import Chat, Record

Tokenizer = Callable[..., Any]
"""A transformers tokenizer, or anything that is called and answers like one."""

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def chat_tokens(
    chat: Chat, tokenizer: Tokenizer, max_length: int | None = None
) -> tuple[list[int], list[bool]] | None:
    """Tokens of the chat and which are supervised, or None when there are more than max_length of them.

    White space that a template writes after the token that ends a turn is not supervised: generation has stopped by then.

    Raises:
        CorpusError: no template, a template that refuses the chat, or one in which the assistant's tokens cannot be told.
    """
    template = _template(tokenizer)
    turns = [message._asdict() for message in chat.messages]
    (ids,) = _ids(_apply(tokenizer, [turns]))
    if max_length is not None and len(ids) > max_length:
        return None
    supervised, broken = _by_prefixes(tokenizer, turns, ids)
    if broken is not None:
        if not _MARK.search(template):
            raise CorpusError(_untold(turns, broken))
        (marks,) = _apply(tokenizer, [turns], return_assistant_tokens_mask=True)["assistant_masks"]
        supervised = [bool(mark) for mark in marks]
    if not any(supervised):
        raise CorpusError(
            "the chat template writes no token of the assistant's turns, so there is nothing to learn. Correct the "
            "template of the base (chat_template.jinja in its folder)."
        )
    return ids, supervised


def check_template(tokenizer: Tokenizer, records: Iterable[Record]) -> None:
    """Raise what encoding the chats among the records would raise, found on one chat per sequence of roles.

    Cheap, for the time before a run: encode_all checks every chat.

    Raises:
        CorpusError: as chat_tokens; names the record by its number, from 0.
    """
    seen = set()
    for number, record in enumerate(records):
        if not isinstance(record, Chat):
            continue
        roles = tuple(message.role for message in record.messages)
        if roles in seen:
            continue
        seen.add(roles)
        try:
            chat_tokens(record, tokenizer)
        except CorpusError as error:
            raise CorpusError(f"record {number}: {error}") from None


def _template(tokenizer: Any) -> str:
    """The text of the template that is used."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):  # named templates, as older tokenizers have
        found = found.get("default")
    if not found:
        raise CorpusError(
            "a chat needs a chat template, and the tokenizer of the base has none. Start from a base that has one, put a "
            'chat_template.jinja into its folder, or give the data as "prompt" and "completion".'
        )
    return str(found)


def _apply(tokenizer: Any, chats: list[list[dict[str, str]]], **options: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(chats, tokenize=True, return_dict=True, **options)
    # What a template raises by itself, and what its expressions raise on messages that it was not written for.
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CorpusError(
            f"the chat template of the base refuses the roles {_roles(chats[-1])}: {error}. Give chats that it takes, for "
            "example without a system message, or a base with another template."
        ) from None


def _ids(rendered: Any) -> list[list[int]]:
    return [list(ids) for ids in rendered["input_ids"]]


def _by_prefixes(
    tokenizer: Any, turns: list[dict[str, str]], ids: list[int]
) -> tuple[list[bool], int | None]:
    """The mask over ids, and the number of the first turn whose tokens cannot be told by prefixes, or None."""
    supervised = [False] * len(ids)
    spoken = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    if spoken[0] == 0:  # a template has no prompt of no messages
        return supervised, 0
    befores = _ids(_apply(tokenizer, [turns[:at] for at in spoken], add_generation_prompt=True))
    ended = [turns[: at + 1] for at in spoken if at + 1 < len(turns)]
    afters = [*(_ids(_apply(tokenizer, ended)) if ended else []), ids]
    for at, before, after in zip(spoken, befores, afters, strict=False):
        if (
            not len(before) < len(after)
            or ids[: len(before)] != before
            or ids[: len(after)] != after
        ):
            return supervised, at
        for place in range(len(before), _end(tokenizer, ids, len(before), len(after))):
            supervised[place] = True
    return supervised, None


def _end(tokenizer: Any, ids: list[int], start: int, end: int) -> int:
    """Where a turn ends: after its last special token, if only white space follows; else at `end`."""
    last = end
    while last > start and not tokenizer.decode([ids[last - 1]]).strip():
        last -= 1
    special = last > start and not tokenizer.decode([ids[last - 1]], skip_special_tokens=True)
    return last if special else end


def _untold(turns: list[dict[str, str]], at: int) -> str:
    why = (
        "the chat begins with the assistant"
        if at == 0
        else "what the template writes up to there is not, token by token, the beginning of the whole chat"
    )
    return (
        f"the assistant's tokens of messages[{at}] (roles {_roles(turns)}) cannot be told from the rest: {why}, and the "
        "template has no {% generation %} marks. Put {% generation %} … {% endgeneration %} around the assistant's text in "
        "chat_template.jinja of the base, or give chats in which only the last message is the assistant's."
    )


def _roles(turns: list[dict[str, str]]) -> str:
    roles = [turn["role"] for turn in turns]
    return ", ".join(roles if len(roles) <= 6 else [*roles[:5], f"… ({len(roles)} messages)"])
