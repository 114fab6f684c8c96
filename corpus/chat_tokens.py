"""Encodes a chat by the tokenizer's own template and supervises only the assistant's turns.

The supervised tokens of a turn are those that the model must write after the prompt that the same
template makes for it:

    before = template(messages before the turn, with the generation prompt)
    after  = template(messages up to and with the turn)
    supervised: positions len(before) to len(after) of the whole chat

This works only if `before` and `after` are, token by token, the beginning of the whole chat, which
is checked for every turn. If they are not (for example if a template leaves the thoughts of earlier
turns out), the template's own {% generation %} marks are used. Without such marks the chat is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from corpus.errors import CorpusError
from corpus.records import Chat, Record

Tokenizer = Callable[..., Any]
"""A transformers tokenizer, or anything with the same interface."""

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def chat_tokens(
    chat: Chat, tokenizer: Tokenizer, max_length: int | None = None
) -> tuple[list[int], list[bool]] | None:
    """Returns the chat's token ids and, per token, whether it is supervised.

    White space that a template writes after the token that ends a turn is not supervised, because
    generation has stopped by then.

    Args:
        chat: the chat.
        tokenizer: the base's tokenizer, with a chat template.
        max_length: the length limit in tokens; None for no limit.

    Returns:
        Two lists of equal length, or None if the chat has more than `max_length` tokens.

    Raises:
        CorpusError: there is no template, the template refuses the chat, or it does not show which
            tokens are the assistant's.
    """
    template = _template(tokenizer)
    turns = [message._asdict() for message in chat.messages]
    (ids,) = _ids(_apply(tokenizer, [turns]))
    if max_length is not None and len(ids) > max_length:
        return None
    supervised, broken = _by_prefixes(tokenizer, turns, ids)
    if broken is not None:
        if not _MARK.search(template):
            raise CorpusError(_explain_no_mask(turns, broken))
        (marks,) = _apply(tokenizer, [turns], return_assistant_tokens_mask=True)["assistant_masks"]
        supervised = [bool(mark) for mark in marks]
    if not any(supervised):
        raise CorpusError(
            "the chat template writes no token of the assistant's turns, so there is nothing to "
            "learn. Correct the template of the base (chat_template.jinja in its folder)."
        )
    return ids, supervised


def check_template(tokenizer: Tokenizer, records: Iterable[Record]) -> None:
    """Checks that a tokenizer's template can encode the chats among the records.

    It encodes one chat per sequence of roles, which is cheap enough to do before a run starts.
    encode_all checks every chat.

    Raises:
        CorpusError: as chat_tokens; names the record by its number, from 0.
    """
    seen = set()
    for number, record in enumerate(records):
        if not isinstance(record, Chat):
            continue
        # Templates refuse by the order of roles, such as two turns of the user in a row.
        roles = tuple(message.role for message in record.messages)
        if roles in seen:
            continue
        seen.add(roles)
        try:
            chat_tokens(record, tokenizer)
        except CorpusError as error:
            raise CorpusError(f"record {number}: {error}") from None


def _template(tokenizer: Any) -> str:
    """Returns the text of the template that is used."""
    template = getattr(tokenizer, "chat_template", None)
    # Older tokenizers have several templates by name.
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise CorpusError(
            "a chat needs a chat template, and the tokenizer of the base has none. Start from a "
            "base that has one, put a chat_template.jinja into its folder, or give the data as "
            '"prompt" and "completion".'
        )
    return str(template)


def _apply(tokenizer: Any, chats: list[list[dict[str, str]]], **options: Any) -> Any:
    """Applies the template to chats; the result is what transformers returns."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(chats, tokenize=True, return_dict=True, **options)
    # A template raises errors by itself, and its expressions fail on messages that they were not
    # written for.
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CorpusError(
            f"the chat template of the base refuses the roles {_roles(chats[-1])}: {error}. Give "
            "chats that it takes, for example without a system message, or a base with another "
            "template."
        ) from None


def _ids(rendered: Any) -> list[list[int]]:
    """Returns the token ids of each chat that _apply encoded."""
    return [list(ids) for ids in rendered["input_ids"]]


def _by_prefixes(
    tokenizer: Any, turns: list[dict[str, str]], ids: list[int]
) -> tuple[list[bool], int | None]:
    """Returns the mask over `ids`, and the number of the first turn that prefixes do not delimit.

    The number is None if all turns are found.
    """
    supervised = [False] * len(ids)
    own = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    # A template cannot write the prompt of an empty list of messages.
    if own[0] == 0:
        return supervised, 0
    befores = _ids(_apply(tokenizer, [turns[:at] for at in own], add_generation_prompt=True))
    # A turn that ends the chat is not rendered again: its `after` is `ids`. If the chat goes on
    # after its last answer, `afters` has one entry too many, hence strict=False.
    ended = [turns[: at + 1] for at in own if at + 1 < len(turns)]
    afters = [*(_ids(_apply(tokenizer, ended)) if ended else []), ids]
    for at, before, after in zip(own, befores, afters, strict=False):
        # Compared as tokens: as a text the prompt may be the beginning of the chat while its last
        # token joins the answer, and the model would never see it so.
        if (
            not len(before) < len(after)
            or ids[: len(before)] != before
            or ids[: len(after)] != after
        ):
            return supervised, at
        for position in range(len(before), _end(tokenizer, ids, len(before), len(after))):
            supervised[position] = True
    return supervised, None


def _end(tokenizer: Any, ids: list[int], start: int, end: int) -> int:
    """Returns where a turn ends: after its last special token if only white space follows it.

    Otherwise it ends at `end`.
    """
    last = end
    while last > start and not tokenizer.decode([ids[last - 1]]).strip():
        last -= 1
    special = last > start and not tokenizer.decode([ids[last - 1]], skip_special_tokens=True)
    return last if special else end


def _explain_no_mask(turns: list[dict[str, str]], at: int) -> str:
    """Says why the assistant's tokens cannot be found, and what to do."""
    why = (
        "the chat begins with the assistant"
        if at == 0
        else "what the template writes up to this message is not, token by token, the beginning of "
        "the whole chat"
    )
    return (
        f"the assistant's tokens of messages[{at}] (roles {_roles(turns)}) cannot be told from the "
        f"rest: {why}, and the template has no {{% generation %}} marks. "
        "Put {% generation %} … {% endgeneration %} around the assistant's text in "
        "chat_template.jinja of the base, or give chats in which only the last message is the "
        "assistant's."
    )


def _roles(turns: list[dict[str, str]]) -> str:
    """Returns the roles of a chat as text, cut short after six."""
    roles = [turn["role"] for turn in turns]
    return ", ".join(roles if len(roles) <= 6 else [*roles[:5], f"… ({len(roles)} messages)"])
