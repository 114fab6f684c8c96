"""Turns one line of data into a record, an Example or a Chat, and validates every field.

There are four layouts, recognised by their fields. If several fit, the first in this list is used:

    prompt, completion            an Example, used as it is; choices and answer are read too
    messages                      a Chat: [{"role": "user", "content": "…"},
                                  {"role": "assistant", "content": "…"}]
    conversations                 a Chat: [{"from": "human", "value": "…"},
                                  {"from": "gpt", "value": "…"}]
    instruction, input, output    an Example, whose prompt is "Instruction: …", a line "Input: …"
                                  unless that is empty, then "Output:"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from corpus.errors import CorpusError

ROLES = ("system", "user", "assistant")
# "human" and "gpt" are ShareGPT's names.
SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
"""Speaker in `conversations` -> role."""

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
    """

    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    label: str = ""


class Message(NamedTuple):
    """One turn of a chat; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """A conversation, of which the model learns every turn of the assistant.

    Attributes:
        messages: the turns in order; at least one is the assistant's.
        label: the task that the chat belongs to, for grouping; "" if it has none.

    Raises:
        CorpusError: no message is the assistant's.
    """

    messages: tuple[Message, ...]
    label: str = ""

    def __post_init__(self) -> None:
        if not any(message.role == "assistant" for message in self.messages):
            raise CorpusError(
                f"no message of a chat of {len(self.messages)} is the assistant's, so there is "
                "nothing to learn."
            )


Record = Example | Chat


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
    match layout(row):
        case "messages" | "conversations" as field:
            if "completion" in row:
                raise CorpusError(
                    f'{where}: has both "{field}" and "completion". Keep one of them.'
                )
            return Chat(_messages(row[field], where, field), label)
        case "instruction":
            return _instruction(row, where, label)
        case _:
            prompt, completion = _text(row, where, "prompt"), _text(row, where, "completion")
            return Example(prompt, completion, *_choices(row, where), label)


def row(record: Record, label_field: str = LABEL) -> dict[str, Any]:
    """Returns the fields of a record's line, which `record` reads back as the same record."""
    line: dict[str, Any]
    if isinstance(record, Chat):
        line = {"messages": [message._asdict() for message in record.messages]}
    else:
        line = {"prompt": record.prompt, "completion": record.completion}
        if record.choices:
            line |= {"choices": list(record.choices), "answer": record.answer}
    return line | ({label_field: record.label} if record.label and label_field else {})


def kind(value: object) -> str:
    """Returns what a JSON value is, in words, for messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def _messages(turns: Any, where: str, field: str) -> tuple[Message, ...]:
    """Reads the turns of a chat in the layout `field`."""
    who, what = ("role", "content") if field == "messages" else ("from", "value")
    # The `datasets` library gives a Sequence of objects as an object of lists.
    if (
        isinstance(turns, dict)
        and turns
        and all(isinstance(column, list) for column in turns.values())
    ):
        turns = [
            dict(zip(turns, values, strict=False)) for values in zip(*turns.values(), strict=False)
        ]
    if not isinstance(turns, list) or not turns:
        got = "an empty list" if turns == [] else kind(turns)
        raise CorpusError(
            f'{where}, field "{field}": expected a list of messages, got {got}. '
            f'Write [{{"{who}": "user", "{what}": "…"}}, {{"{who}": "assistant", "{what}": "…"}}].'
        )
    messages = tuple(
        _message(turn, where, f"{field}[{at}]", field) for at, turn in enumerate(turns)
    )
    if not any(message.role == "assistant" for message in messages):
        raise CorpusError(
            f'{where}, field "{field}": no message is the assistant\'s, '
            "so there is nothing to learn."
        )
    return messages


def _message(turn: Any, where: str, field: str, style: str) -> Message:
    """Reads one turn; `field` is its place in the line, `style` the layout."""
    if not isinstance(turn, dict):
        raise CorpusError(f'{where}, field "{field}": expected an object, got {kind(turn)}.')
    # Some datasets call the field conversations and still write role and content.
    who, what = ("role", "content") if style == "messages" or "role" in turn else ("from", "value")
    role_of = {role: role for role in ROLES} if who == "role" else SPEAKERS
    # A tuple compares; a dictionary would raise for a value without a hash, such as a list.
    if turn.get(who) not in tuple(role_of):
        got = repr(turn[who]) if isinstance(turn.get(who), str) else _got(turn, who)
        raise CorpusError(
            f'{where}, field "{field}.{who}": expected one of {", ".join(role_of)}, got {got}.'
        )
    if turn.get("tool_calls"):
        raise CorpusError(
            f'{where}, field "{field}.tool_calls": tool calls cannot be trained on here. '
            f"Write them into the {what}, or remove the line."
        )
    content = turn.get(what)
    if not isinstance(content, str) or not content.strip():
        got = "an empty one" if isinstance(content, str) else _got(turn, what)
        raise CorpusError(
            f'{where}, field "{field}.{what}": expected a text, got {got}. '
            "Write it or remove the line."
        )
    return Message(role_of[turn[who]], content)


def _got(turn: Mapping[str, Any], field: str) -> str:
    """Returns what a field of a turn holds, in words, or which fields there are instead."""
    return (
        kind(turn[field])
        if field in turn
        else f"nothing (the message has {', '.join(sorted(turn)) or 'no fields'})"
    )


def _instruction(row: Mapping[str, Any], where: str, label: str) -> Example:
    """Reads an Example in the layout instruction, input, output."""
    lines = [f"Instruction: {_text(row, where, 'instruction')}"]
    text = row.get("input")
    if text is not None and not isinstance(text, str):
        raise CorpusError(
            f'{where}, field "input": expected a text, got {kind(text)}. Put it in quotes.'
        )
    if text and text.strip():
        lines.append(f"Input: {text}")
    output = _text(row, where, "output")
    # A completion begins with white space; see Example.
    return Example(
        "\n".join([*lines, "Output:"]), output if output[0].isspace() else f" {output}", label=label
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


def _text(row: Mapping[str, Any], where: str, field: str) -> str:
    """Reads a field that must hold a text with more than white space."""
    if field not in row:
        fields = ", ".join(sorted(row)) or "no fields"
        raise CorpusError(
            f'{where}, field "{field}": missing (the line has {fields}). Add "{field}" with a text.'
        )
    value = row[field]
    if not isinstance(value, str):
        raise CorpusError(
            f'{where}, field "{field}": expected a text, got {kind(value)}. Put it in quotes.'
        )
    if not value.strip():
        raise CorpusError(f'{where}, field "{field}": empty. Write the {field} or remove the line.')
    return value


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
