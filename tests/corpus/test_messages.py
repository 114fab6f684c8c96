"""Messages of a chat, one by one; whole lines are in test_records.py."""

import json

import pytest

from corpus import CorpusError, Message
from corpus.messages import PASSED, ROLES, SPEAKERS, kind, message_row, messages, tools


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_read_and_written(role):
    made = Message(role, "a", more='{"name": "eve"}')
    assert messages([message_row(made)], "here", "messages") == [made]


@pytest.mark.parametrize(("speaker", "role"), SPEAKERS.items())
def test_every_speaker_has_a_role(speaker, role):
    (read,) = messages([{"from": speaker, "value": "a"}], "here", "conversations")
    assert (read.role, read.content) == (role, "a") and role in ROLES


def test_the_template_gets_every_field_that_is_passed_and_no_other():
    fields = {name: "x" for name in PASSED if name != "tool_calls"}
    calls = [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    turn = {
        "role": "assistant",
        "content": "b",
        "tool_calls": calls,
        "id": 7,
        "weight": 1,
        **fields,
    }
    (read,) = messages([turn], "here", "messages")
    function = {"name": "f", "arguments": {"a": 1}}
    wanted = [{"id": "1", "function": function}]
    assert read.turn == {"role": "assistant", "content": "b", "tool_calls": wanted, **fields}
    # The order of the fields does not count.
    assert messages([dict(reversed(turn.items()))], "here", "messages") == [read]


def test_only_a_message_of_the_assistant_can_be_left_unlearned():
    said = [{"role": role, "content": "a", "weight": 0} for role in ("user", "assistant")]
    assert [message.learn for message in messages(said, "here", "messages")] == [True, False]
    for value, learn in ((True, True), (False, False), (1, True), (0, False), (None, True)):
        (read,) = messages(
            [{"role": "assistant", "content": "a", "train": value}], "here", "messages"
        )
        assert read.learn is learn


def test_tools_are_read_as_a_list_and_as_text():
    listed = [{"type": "function", "function": {"name": "größer"}}]
    assert tools(listed, "here") == tools(json.dumps(listed), "here")
    assert "größer" in tools(listed, "here")
    for nothing in (None, [], "", "[]"):
        assert tools(nothing, "here") == ""
    for wrong in (" ", "f", "{}", {"a": 1}, 7, [1]):
        with pytest.raises(CorpusError, match='here, field "tools"'):
            tools(wrong, "here")


def test_values_in_words():
    values = ({}, [], "", True, None, 1.5)
    assert [kind(value) for value in values] == [
        "an object",
        "a list",
        "a text",
        "true or false",
        "null",
        "a number",
    ]
