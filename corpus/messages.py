"""Reads the messages of a chat as people write them: roles, texts, calls of tools, weights.

A message has a role and a content: `role` and `content`, or ShareGPT's `from` and `value`. A
content is a text, or a list of parts {"type": "text", "text": "…"}. Fields that are null count as
absent. Further fields:

    reasoning_content, thinking    what the assistant thinks before it answers
    tool_calls, tool_call_id, name    calls of functions, and which call a message of a tool answers
    weight: 0, train: false        the model does not learn this message of the assistant

Templates differ in which of these they write; corpus.chat_tokens refuses a chat with a field that
the template leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from corpus.errors import CorpusError

ROLES = ("system", "developer", "user", "assistant", "tool")
SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Speaker in `conversations`, with ShareGPT's names -> role."""
PASSED = ("reasoning_content", "thinking", "tool_calls", "tool_call_id", "name")
"""Fields of a message that are given to the template as they are."""


class Message(NamedTuple):
    """One turn of a chat.

    Attributes:
        role: one of ROLES.
        content: its text; "" only if it calls tools.
        learn: whether the model learns it; True for all that is not the assistant's.
        more: its fields of PASSED, as a JSON object; "" if it has none.
    """

    role: str
    content: str
    learn: bool = True
    more: str = ""

    @property
    def turn(self) -> dict[str, Any]:
        """The message as a chat template takes it."""
        fields = json.loads(self.more) if self.more else {}
        return {"role": self.role, "content": self.content, **fields}


def message_row(message: Message) -> dict[str, Any]:
    """Returns the fields of a message, which `messages` reads back as the same message."""
    silent = message.role == "assistant" and not message.learn
    return message.turn | ({"weight": 0} if silent else {})


def messages(turns: Any, where: str, field: str) -> list[Message]:
    """Reads the messages in a field of a line.

    Args:
        turns: the value of the field.
        where: how messages of errors begin, for example "data.jsonl, line 7".
        field: the name of the field; "conversations" has ShareGPT's names.

    Raises:
        CorpusError: there is none, or one is malformed; names `where` and the field.
    """
    who, what = ("from", "value") if field == "conversations" else ("role", "content")
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
    return [_message(turn, where, f"{field}[{at}]", field) for at, turn in enumerate(turns)]


def tools(value: Any, where: str) -> str:
    """Reads the field `tools` of a line: a list of objects, or the same as text of JSON.

    Returns:
        JSON; "" if there are none.

    Raises:
        CorpusError: it is something else.
    """
    listed = value
    if isinstance(value, str) and value.strip():
        try:
            listed = json.loads(value)
        except ValueError:
            listed = None
    if not value or listed == []:
        return ""
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise CorpusError(
            f'{where}, field "tools": expected a list of objects that describe functions, or the '
            f"same as JSON in a text, got {kind(value)}."
        )
    return json.dumps(listed, ensure_ascii=False)


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


def _message(turn: Any, where: str, field: str, style: str) -> Message:
    """Reads one turn; `field` is its place in the line, `style` the field with all turns."""
    if not isinstance(turn, dict):
        raise CorpusError(f'{where}, field "{field}": expected an object, got {kind(turn)}.')
    # Some datasets call the field conversations and still write role and content.
    shares = style == "conversations" and "role" not in turn
    who, what = ("from", "value") if shares else ("role", "content")
    role_of = SPEAKERS if shares else {role: role for role in ROLES}
    # A tuple compares; a dictionary would raise for a value without a hash, such as a list.
    if turn.get(who) not in tuple(role_of):
        got = repr(turn[who]) if isinstance(turn.get(who), str) else _got(turn, who)
        raise CorpusError(
            f'{where}, field "{field}.{who}": expected one of {", ".join(role_of)}, got {got}.'
        )
    more = _more(turn, where, field)
    content = _content(turn, where, field, what, needed="tool_calls" not in more)
    role = role_of[turn[who]]
    learn = _learn(turn, where, field) or role != "assistant"
    # Equal messages are equal values, so the order of the fields does not count.
    return Message(
        role,
        content,
        learn,
        json.dumps(more, ensure_ascii=False, sort_keys=True) if more else "",
    )


def _content(turn: Mapping[str, Any], where: str, field: str, what: str, *, needed: bool) -> str:
    """Reads the text of a turn; without `needed` it may be empty."""
    content = turn.get(what)
    if isinstance(content, list):
        for at, part in enumerate(content):
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str) or part.get("type", "text") != "text":
                got = (
                    f"a part of type {part.get('type')!r}" if isinstance(part, dict) else kind(part)
                )
                raise CorpusError(
                    f'{where}, field "{field}.{what}[{at}]": expected {{"type": "text", "text": '
                    f'"…"}}, got {got}. Only texts can be trained on.'
                )
        content = "".join(part["text"] for part in content)
    if not needed and content is None:
        return ""
    if not isinstance(content, str) or (needed and not content.strip()):
        got = "an empty one" if isinstance(content, str) else _got(turn, what)
        raise CorpusError(
            f'{where}, field "{field}.{what}": expected a text, got {got}. '
            "Write it or remove the line."
        )
    return content


def _more(turn: Mapping[str, Any], where: str, field: str) -> dict[str, Any]:
    """Reads the fields of a turn that are given to the template."""
    more = {name: turn[name] for name in PASSED if turn.get(name)}
    for name, value in more.items():
        if name == "tool_calls":
            more[name] = _calls(value, where, f"{field}.{name}")
        elif not isinstance(value, str):
            raise CorpusError(
                f'{where}, field "{field}.{name}": expected a text, got {kind(value)}.'
            )
    if turn.get("function_call"):
        raise CorpusError(
            f'{where}, field "{field}.function_call": templates do not know it. Write it as '
            '"tool_calls": [{"type": "function", "function": {"name": "…", "arguments": {…}}}].'
        )
    return more


def _calls(value: Any, where: str, field: str) -> list[dict[str, Any]]:
    """Reads calls of tools; arguments that are JSON in a text become an object."""
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise CorpusError(
                f'{where}, field "{field}": expected calls such as {{"type": "function", '
                f'"function": {{"name": "…", "arguments": {{…}}}}}}, got {kind(call)}.'
            )
        # OpenAI writes arguments as text of JSON; most templates would write that text in quotes.
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                function = function | {"arguments": json.loads(arguments)}
            except ValueError as error:
                raise CorpusError(
                    f'{where}, field "{field}": the arguments of {function["name"]} are not valid '
                    f"JSON ({error})."
                ) from None
        calls.append(call | {"function": function} if "function" in call else function)
    return calls


def _learn(turn: Mapping[str, Any], where: str, field: str) -> bool:
    """Reads whether a turn is to be learned: weight 0 or 1, or train true or false."""
    weight, train = turn.get("weight"), turn.get("train")
    for name, value in (("weight", weight), ("train", train)):
        if value is not None and value not in (0, 1):
            raise CorpusError(
                f'{where}, field "{field}.{name}": expected 0 or 1, got {value!r}: '
                "a message is learned or it is not."
            )
    return weight != 0 and train != 0


def _got(turn: Mapping[str, Any], field: str) -> str:
    """Returns what a field of a turn holds, in words, or which fields there are instead."""
    return (
        kind(turn[field])
        if field in turn
        else f"nothing (the message has {', '.join(sorted(turn)) or 'no fields'})"
    )
