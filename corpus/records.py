"""Turns one line of data into a record, an Example or a Chat, and validates every field.

There are four layouts, recognised by their fields. If several fit, the first in this list is used:

    prompt, completion            an Example, used as it is; choices and answer are read too. Two
                                  lists of messages are a Chat, whose prompt is not learned
    messages                      a Chat: [{"role": "user", "content": "…"},
                                  {"role": "assistant", "content": "…"}]
    conversations                 a Chat: [{"from": "human", "value": "…"},
                                  {"from": "gpt", "value": "…"}]
    instruction, input, output    an Example, whose prompt is "Instruction: …", a line "Input: …"
                                  unless that is empty, then "Output:". Where the base has a chat
                                  template, it is the same as a chat

corpus.messages describes what a message may hold. A chat may have `system`, a text that becomes its
first message, and `tools`, descriptions of functions for the chat template. An instruction with one
of these, or with `history`, a list of [what was asked, the answer], is a Chat. Prompt and
completion have no place for them, so lines that have them are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from corpus.errors import CorpusError
from corpus.instructions import Instruction, history, instruction, text_field
from corpus.messages import Message, kind, message_row, messages, tools

LABEL = "task"
"""The default name of the field that holds the task of a record."""

Layout = Literal["completion", "messages", "conversations", "instruction"]


@dataclass(frozen=True)
class Example:
    """One prompt with the completion that a model should write.

    Attributes:
        prompt: what the model is shown, without trailing whitespace.
        completion: what the model should write. It starts with a space, so that tokens(prompt) +
            tokens(completion) are the tokens of the whole text.
        choices: for multiple choice, the texts to choose from, without the leading space;
            otherwise empty.
        answer: the index of the right choice; None if there are no choices.
        label: the task that the example belongs to, for grouping; "" if it has none.
        line: where it is in its file, counted from 1; 0 if it is from no file.
        instruction: the fields that prompt and completion were made of; None if the file has prompt
            and completion. Where the base has a chat template, they are written as a chat.
    """

    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    label: str = ""
    line: int = field(default=0, compare=False, repr=False)
    instruction: Instruction | None = None


@dataclass(frozen=True)
class Chat:
    """A conversation, of which the model learns the turns of the assistant.

    Attributes:
        messages: the turns in order; at least one is the assistant's and learned.
        label: the task that the chat belongs to, for grouping; "" if it has none.
        tools: the functions that the assistant may call, as JSON for the chat template; "" if none.
        line: as in Example.
        part: whether it is the beginning of a longer chat, of which only its last answer is
            learned; see corpus.chat_tokens.

    Raises:
        CorpusError: no message is the assistant's, or none of those is to be learned.
    """

    messages: tuple[Message, ...]
    label: str = ""
    tools: str = ""
    line: int = field(default=0, compare=False, repr=False)
    part: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        own = [message.learn for message in self.messages if message.role == "assistant"]
        if not any(own):
            none = "none of the assistant's messages of" if own else "no message of"
            is_his = "is to be learned (weight 0)" if own else "is the assistant's"
            raise CorpusError(
                f"{none} a chat of {len(self.messages)} {is_his}, so there is nothing to learn."
            )


Record = Example | Chat


def place(record: Record, number: int) -> str:
    """Returns how a message names a record: by its line, or by its number from 1 in its list."""
    return f"line {record.line}" if record.line else f"record {number + 1}"


def record_text(record: Record) -> str:
    """Returns the whole text of a record, for what compares texts; calls of tools are left out."""
    if isinstance(record, Chat):
        return "\n".join(message.content for message in record.messages)
    return record.prompt + record.completion


MEDIA = ("image", "images", "video", "videos", "audio", "audios")
"""Fields of rows that are about more than their texts; such rows are refused."""


def layout(fields: Mapping[str, Any]) -> Layout | None:
    """Returns which of the four layouts a line has, by its field names; None if it has none.

    >>> layout({"id": 1, "messages": [...]}), layout({"question": "…", "answer": "…"})
    ("messages", None)
    """
    if {"prompt", "completion"} <= fields.keys():
        return "completion"
    if "messages" in fields:
        return "messages"
    if "conversations" in fields:
        return "conversations"
    return "instruction" if {"instruction", "output"} <= fields.keys() else None


def record(row: Mapping[str, Any], where: str, label_field: str = LABEL) -> Record:
    """Makes the record of one line.

    Args:
        row: the line's fields; those that no layout names are ignored.
        where: how messages begin, for example "data.jsonl, line 7".
        label_field: the field that names the task; "" reads none.

    Raises:
        CorpusError: a field is missing or has a wrong value; names `where` and the field.
    """
    label = _label(row, where, label_field)
    for name in MEDIA:
        if row.get(name):
            raise CorpusError(
                f'{where}, field "{name}": only texts can be trained on. '
                "Remove the field, or the line."
            )
    match layout(row):
        case "messages" | "conversations" as name:
            if "completion" in row:
                raise CorpusError(f'{where}: has both "{name}" and "completion". Keep one of them.')
            return _chat(row, messages(row[name], where, name), where, name, label)
        case "instruction":
            read = instruction(row, where)
            if any(row.get(name) for name in ("system", "history", "tools")):
                turns = [*history(row, where), *read.messages]
                return _chat(row, turns, where, "output", label)
            return Example(read.prompt, read.completion, label=label, instruction=read)
        case "completion" if isinstance(row["prompt"], list) or isinstance(row["completion"], list):
            return _conversation(row, where, label)
        case _:
            _refuse_fields(row, where)
            prompt, completion = (
                text_field(row, where, "prompt"),
                text_field(row, where, "completion"),
            )
            return Example(prompt, completion, *_choices(row, where), label)


def row(record: Record, label_field: str = LABEL) -> dict[str, Any]:
    """Returns the fields of a record's line, which `record` reads back as the same record."""
    line: dict[str, Any]
    if isinstance(record, Chat):
        line = {"messages": [message_row(message) for message in record.messages]}
        line |= {"tools": json.loads(record.tools)} if record.tools else {}
    elif record.instruction is not None:
        line = record.instruction._asdict()
    else:
        line = {"prompt": record.prompt, "completion": record.completion}
        if record.choices:
            line |= {"choices": list(record.choices), "answer": record.answer}
    return line | ({label_field: record.label} if record.label and label_field else {})


def digest(records: Iterable[Record]) -> str:
    """Returns the SHA-256 of records as JSON lines; it depends on their content and order."""
    sha = hashlib.sha256()
    # Sorted keys, so that the digest does not depend on how a record lists its fields.
    for record in records:
        sha.update(json.dumps(row(record), sort_keys=True).encode() + b"\n")
    return sha.hexdigest()


def _chat(
    row: Mapping[str, Any], turns: Sequence[Message], where: str, name: str, label: str
) -> Chat:
    """Makes a chat of its messages and of the fields `system` and `tools` beside them."""
    if row.get("history") and name != "output":
        raise _no_place(where, "history", "Write its turns as messages")
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise CorpusError(f'{where}, field "system": expected a text, got {kind(system)}.')
    if system and system.strip():
        if turns[0].role not in ("system", "developer"):
            turns = [Message("system", system), *turns]
        elif turns[0].content != system:
            raise CorpusError(
                f'{where}, field "system": the first message of "{name}" is another system '
                "message. Keep one of them."
            )
    described = tools(row.get("tools"), where)
    try:
        return Chat(tuple(turns), label, described)
    except CorpusError as error:
        raise CorpusError(f'{where}, field "{name}": {error}') from None


def _conversation(row: Mapping[str, Any], where: str, label: str) -> Chat:
    """Reads prompt and completion that are both lists of messages; the prompt is not learned."""
    for name in ("prompt", "completion"):
        if not isinstance(row[name], list):
            raise CorpusError(
                f'{where}, field "{name}": is {kind(row[name])}, and the other of prompt and '
                "completion is a list of messages. Give two lists, or two texts."
            )
    if row.get("choices") is not None:
        raise _no_place(where, "choices", "Give prompt and completion as texts")
    asked = [
        turn._replace(learn=turn.role != "assistant")
        for turn in messages(row["prompt"], where, "prompt")
    ]
    return _chat(
        row, [*asked, *messages(row["completion"], where, "completion")], where, "completion", label
    )


def _refuse_fields(row: Mapping[str, Any], where: str) -> None:
    """Refuses what only a chat has a place for: it would be left out without a word."""
    for name in ("system", "history", "tools"):
        if row.get(name):
            raise _no_place(where, name, 'Write the line as "messages"')


def _no_place(where: str, name: str, advice: str) -> CorpusError:
    return CorpusError(
        f'{where}, field "{name}": this layout has no place for it. {advice}, or remove the field.'
    )


def _label(row: Mapping[str, Any], where: str, field: str) -> str:
    """Reads the task of a line; "" if it has none."""
    value = row.get(field) if field else None
    if value is None:
        return ""
    # bool is a subclass of int, and true is no name of a task.
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise CorpusError(
            f'{where}, field "{field}": expected the name of a task, got {kind(value)}. Put it in '
            'quotes, or set label_field to the field that names the task, or to "".'
        )
    return str(value)


def _choices(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], int | None]:
    """Reads the choices and the index of the right one; () and None if the line has neither."""
    choices, answer = row.get("choices"), row.get("answer")
    if choices is None and answer is None:
        return (), None
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(c, str) and c.strip() for c in choices)
    ):
        raise CorpusError(
            f'{where}, field "choices": expected a list of two or more texts, got {kind(choices)}.'
        )
    # true would pass as the index 1.
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise CorpusError(
            f'{where}, field "answer": expected the index of the right choice, '
            f"0 to {len(choices) - 1}, got {answer!r}."
        )
    return tuple(choices), answer
