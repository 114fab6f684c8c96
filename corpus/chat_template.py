"""Writes a chat with the tokenizer's chat template, and refuses a chat of which it loses a part."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from corpus.errors import CorpusError
from corpus.records import Chat

Tokenizer = Callable[..., Any]
"""A transformers tokenizer, or anything with the same interface."""

THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Names that templates have for what the assistant thinks before it answers."""

WRITTEN = (*THOUGHTS, "tool_calls")
"""Fields of a message that the model must learn or read, so that a template has to write them."""

_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

Turn = dict[str, Any]
"""A message as a template takes it."""


@dataclass(frozen=True)
class ChatWriter:
    """A chat and the template that writes it.

    Attributes:
        tokenizer: the base's tokenizer.
        turns: the messages as this template takes them.
        tools: the functions that the assistant may call; None if there are none.
        has_marks: whether the template marks the assistant's text with {% generation %}.
    """

    tokenizer: Any
    turns: Sequence[Turn]
    tools: Any
    has_marks: bool

    @classmethod
    def of(cls, chat: Chat, tokenizer: Tokenizer) -> ChatWriter:
        """Returns the writer of a chat.

        Raises:
            CorpusError: there is no template, it refuses the chat, or it leaves out something that
                the model should read.
        """
        template = template_text(tokenizer)
        turns = _turns(chat, template)
        tools = json.loads(chat.tools) if chat.tools else None
        # Templates of models that see pictures take a list of parts, and write nothing of a text,
        # or fail on it.
        forms = [turns, [turn | {"content": _parts(turn["content"])} for turn in turns]]
        problems = []
        for form in forms:
            writer = cls(tokenizer, form, tools, _MARK.search(template) is not None)
            try:
                lost = writer._lost_context(turns)
            except CorpusError as error:
                problems.append(error)
                continue
            if lost is None:
                return writer
            problems.append(
                CorpusError(
                    f"the chat template of the base leaves out the text of messages[{lost}] "
                    f"({turns[lost]['role']}): the model would not see it. Remove the message, or "
                    "start from a base whose template writes it."
                )
            )
        raise problems[0]

    @cached_property
    def whole(self) -> str:
        """What the template writes for all messages."""
        return self.text(len(self.turns))

    def text(self, end: int, *, prompt: bool = False) -> str:
        """Returns what the template writes for the first messages.

        Args:
            end: number of messages.
            prompt: whether the beginning of the assistant's next answer is added.

        Raises:
            CorpusError: the template refuses these messages.
        """
        return str(self._apply(end, tokenize=False, add_generation_prompt=prompt))

    def writes(self, part: str) -> bool:
        """Returns whether a text of a message is in the whole, as it is or as JSON.

        White space does not count, because templates add and remove it.
        """
        # Some templates write what tools return with `tojson`.
        as_json = json.dumps(part, ensure_ascii=False)[1:-1]
        return _squeeze(part) in self._squeezed or _squeeze(as_json) in self._squeezed

    def ids(self, text: str) -> list[int]:
        """Returns the token ids of a text that the template wrote."""
        # The template has written the special tokens already.
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def marked(self) -> tuple[list[int], list[bool]]:
        """Returns the token ids of the chat, and which of them the template marks."""
        written = self._apply(
            len(self.turns), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(written["input_ids"]), [bool(mark) for mark in written["assistant_masks"]]

    def roles(self) -> str:
        """Returns the roles of the chat as text, cut short after six."""
        return _roles(self.turns)

    def _apply(self, end: int, **options: Any) -> Any:
        """Applies the template to the first messages; the result is what transformers returns."""
        from jinja2 import TemplateError

        turns = list(self.turns[:end])
        try:
            return self.tokenizer.apply_chat_template(turns, tools=self.tools, **options)
        # A template raises errors by itself, and its expressions fail on messages that they were
        # not written for.
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise CorpusError(
                f"the chat template of the base refuses the roles {_roles(turns)}: {error}. Give "
                "chats that it takes, for example without a system message, or a base with another "
                "template."
            ) from None

    def _lost_context(self, turns: Sequence[Turn]) -> int | None:
        """Returns the number of the first message, not the assistant's, that is not written."""
        return next(
            (
                at
                for at, turn in enumerate(turns)
                if turn["role"] != "assistant" and not self.writes(turn["content"])
            ),
            None,
        )

    @cached_property
    def _squeezed(self) -> str:
        return _squeeze(self.whole)


def template_text(tokenizer: Any) -> str:
    """Returns the text of the template that a tokenizer uses.

    Raises:
        CorpusError: it has none.
    """
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


def has_template(tokenizer: Any) -> bool:
    """Returns whether a tokenizer can write chats."""
    try:
        template_text(tokenizer)
    except CorpusError:
        return False
    return True


def _squeeze(text: str) -> str:
    """Returns a text without white space."""
    return "".join(text.split())


def _turns(chat: Chat, template: str) -> list[Turn]:
    """Returns the messages with the names that a template has for their fields.

    Raises:
        CorpusError: the chat has a field that the template never mentions.
    """
    turns = [_renamed(message.turn, template) for message in chat.messages]
    used = {name for turn in turns for name in turn if name in WRITTEN}
    used |= {"tools"} if chat.tools else set()
    if missing := sorted(name for name in used if not _mentions(template, name)):
        raise CorpusError(
            f"the chat has {', '.join(missing)}, and the chat template of the base never mentions "
            "it: the model would not see it. Remove it from the data, or start from a base whose "
            "template writes it."
        )
    return turns


def _renamed(turn: Turn, template: str) -> Turn:
    """Returns a message with the template's own names for its role and its thoughts."""
    # The name that newer models have for a system message.
    if turn["role"] == "developer" and not _mentions(template, "developer"):
        turn = turn | {"role": "system"}
    for name in THOUGHTS:
        if name in turn and not _mentions(template, name):
            known = next((other for other in THOUGHTS if _mentions(template, other)), name)
            turn = {known if key == name else key: value for key, value in turn.items()}
    return turn


def _mentions(template: str, name: str) -> bool:
    """Returns whether a template has this word; enable_thinking is another one than thinking."""
    return re.search(rf"(?<![\w-]){name}(?![\w-])", template) is not None


def _parts(content: str) -> list[Mapping[str, str]]:
    return [{"type": "text", "text": content}]


def _roles(turns: Sequence[Turn]) -> str:
    roles = [turn["role"] for turn in turns]
    return ", ".join(roles if len(roles) <= 6 else [*roles[:5], f"… ({len(roles)} messages)"])
