"""One line to one record: four layouts, one error per way to be wrong, and the way back."""

import pytest

from corpus import Chat, CorpusError, Example, Message
from corpus.instructions import Instruction
from corpus.records import layout, record, row

GREET = Instruction("Greet.", "", "Hi")
CHAT = Chat((Message("user", "2 + 2?"), Message("assistant", "4")), "sums")
TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


def said(*turns):
    return [dict(zip(("role", "content"), turn, strict=True)) for turn in turns]


@pytest.mark.parametrize(
    ("line", "kind", "expected"),
    [
        ({"prompt": "a", "completion": " b", "id": 3}, "completion", Example("a", " b")),
        (
            {"prompt": "a", "completion": " b", "choices": ["b", "c"], "answer": 0, "task": "t"},
            "completion",
            Example("a", " b", ("b", "c"), 0, "t"),
        ),
        ({"messages": TURNS, "task": "sums"}, "messages", CHAT),
        ({"messages": TURNS, "prompt": "2 + 2?", "prompt_id": "x", "task": "sums"}, "messages", CHAT),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be short."},
                    {"from": "human", "value": "2 + 2?"},
                    {"from": "gpt", "value": "4"},
                ]
            },
            "conversations",
            Chat((Message("system", "Be short."), *CHAT.messages)),
        ),
        ({"conversations": TURNS, "task": "sums"}, "conversations", CHAT),
        (
            {"instruction": "Add.", "input": "2 and 2", "output": "4"},
            "instruction",
            Example("Instruction: Add.\nInput: 2 and 2\nOutput:", " 4", instruction=Instruction("Add.", "2 and 2", "4")),
        ),
        (
            {"instruction": "Greet.", "input": "", "output": "\nHi", "task": 7},
            "instruction",
            Example("Instruction: Greet.\nOutput:", "\nHi", label="7", instruction=Instruction("Greet.", "", "\nHi")),
        ),
        ({"instruction": "Greet.", "input": None, "output": "Hi"}, "instruction", Example("Instruction: Greet.\nOutput:", " Hi", instruction=GREET)),
        (
            {"instruction": "Greet.", "output": "Hi", "system": "Be short.", "history": [["2 + 2?", "4"]]},
            "instruction",
            Chat((Message("system", "Be short."), *CHAT.messages, *GREET.messages)),
        ),
        ({"instruction": "Greet.", "output": "Hi", "tools": [{"name": "f"}]}, "instruction", Chat(GREET.messages, tools='[{"name": "f"}]')),
        # what people write beside the plain text of a message
        (
            {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}], "system": "Be short.", "tools": "[]"},
            "conversations",
            Chat((Message("system", "Be short."), *CHAT.messages)),
        ),
        ({"messages": [*said(("developer", "a")), *TURNS], "system": "a"}, "messages", Chat((Message("developer", "a"), *CHAT.messages))),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2?"}]}, TURNS[1]]},
            "messages",
            Chat(CHAT.messages),
        ),
        (
            {"messages": [TURNS[0], TURNS[1] | {"weight": 0}, TURNS[0] | {"weight": 0}, TURNS[1] | {"train": True, "weight": 1}]},
            "messages",
            Chat((CHAT.messages[0], Message("assistant", "4", learn=False), *CHAT.messages)),
        ),
        (
            {
                "messages": [
                    TURNS[0],
                    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"of": [2, 2]}'}, "id": "1"}]},
                    {"role": "tool", "content": "4", "tool_call_id": "1", "name": "add"},
                    TURNS[1] | {"reasoning_content": "easy"},
                ],
                "tools": '[{"name": "add"}]',
            },
            "messages",
            Chat(
                (
                    CHAT.messages[0],
                    Message("assistant", "", more='{"tool_calls": [{"function": {"arguments": {"of": [2, 2]}, "name": "add"}, "id": "1"}]}'),
                    Message("tool", "4", more='{"name": "add", "tool_call_id": "1"}'),
                    Message("assistant", "4", more='{"reasoning_content": "easy"}'),
                ),
                tools='[{"name": "add"}]',
            ),
        ),
        # trl's conversational prompt and completion: the prompt's answers are not learned
        (
            {"prompt": [*TURNS, TURNS[0]], "completion": TURNS[1:], "task": "sums"},
            "completion",
            Chat((CHAT.messages[0], Message("assistant", "4", learn=False), *CHAT.messages), "sums"),
        ),
        # as the `datasets` library fills fields that other rows have
        ({"messages": [turn | {"tool_calls": None, "weight": None, "name": None} for turn in TURNS], "system": None, "tools": None}, "messages", Chat(CHAT.messages)),
        ({"prompt": "a", "completion": " b", "history": [], "system": "", "tools": None}, "completion", Example("a", " b")),
        # as the `datasets` library gives a Sequence of objects
        ({"messages": {"role": ["user", "assistant"], "content": ["2 + 2?", "4"]}, "task": "sums"}, "messages", CHAT),
    ],
)  # fmt: skip
def test_layouts_worked_out(line, kind, expected):
    assert layout(line) == kind
    assert record(line, "here") == expected


def test_fields_that_are_no_layout():
    assert layout({"question": "a", "answer": "b"}) is None
    assert layout({"prompt": "a"}) is None
    assert layout({"instruction": "a"}) is None


@pytest.mark.parametrize(
    "made",
    [
        Example("a", " b"),
        Example("a", " b", ("b", "c"), 1, "t"),
        CHAT,
        Chat(CHAT.messages),
        Chat(
            (
                *CHAT.messages[:1],
                Message("assistant", "", learn=False, more='{"tool_calls": [{"name": "f"}]}'),
                Message("tool", "4", more='{"tool_call_id": "1"}'),
                *CHAT.messages[1:],
            ),
            tools='[{"name": "f"}]',
        ),
    ],
)
def test_a_row_is_read_back_as_the_same(made):
    assert record(row(made), "here") == made
    assert record(row(made, "kind"), "here", "kind") == made


def test_labels_are_read_from_the_field_that_is_asked_for():
    line = {"prompt": "a", "completion": " b", "task": "t", "kind": "k", "none": None}
    assert [
        record(line, "here", field).label for field in ("task", "kind", "", "absent", "none")
    ] == [
        "t",
        "k",
        "",
        "",
        "",
    ]
    assert "task" not in row(Example("a", " b", label="t"), "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"messages": "hi"}, ['"messages"', "a list of messages, got a text", '"role": "user"']),
        ({"messages": []}, ['"messages"', "got an empty list"]),
        ({"messages": {}}, ['"messages"', "got an object"]),
        ({"conversations": None}, ['"conversations"', "got null", '"from": "user"']),
        ({"messages": TURNS, "completion": " 4"}, ['both "messages" and "completion"', "Keep one"]),
        ({"messages": said(("user", "a"))}, ['"messages"', "nothing to learn"]),
        ({"messages": ["hi"]}, ['"messages[0]"', "an object, got a text"]),
        ({"messages": [*TURNS, {"role": "User", "content": "a"}]}, ['"messages[2].role"', "user, assistant, tool, got 'User'"]),
        ({"messages": [*TURNS, {"role": "function", "content": "a"}]}, ['"messages[2].role"', "'function'"]),
        ({"messages": [{"content": "a"}]}, ['"messages[0].role"', "got nothing (the message has content)"]),
        ({"messages": [{}]}, ['"messages[0].role"', "no fields"]),
        ({"messages": [{"role": ["user"], "content": "a"}]}, ['"messages[0].role"', "got a list"]),
        ({"messages": [*TURNS, {"role": "user"}]}, ['"messages[2].content"', "a text, got nothing (the message has role)"]),
        ({"messages": said(("user", None))}, ['"messages[0].content"', "got null"]),
        ({"messages": said(("user", [{"type": "text", "text": "a"}, {"type": "image"}]))}, ['"messages[0].content[1]"', "a part of type 'image'"]),
        ({"messages": said(("user", ["a"]))}, ['"messages[0].content[0]"', "got a text"]),
        ({"messages": said(("user", []))}, ['"messages[0].content"', "an empty one"]),
        ({"messages": said(("user", " \n"))}, ['"messages[0].content"', "an empty one", "remove the line"]),
        ({"messages": [*TURNS, {"role": "assistant", "tool_calls": [{"id": 1}]}]}, ['"messages[2].tool_calls"', "expected calls", "an object"]),
        ({"messages": [*TURNS, {"role": "assistant", "tool_calls": ["f()"]}]}, ['"messages[2].tool_calls"', "a text"]),
        (
            {"messages": [*TURNS, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{x: 1}"}]}]},
            ['"messages[2].tool_calls"', "arguments of f", "not valid JSON"],
        ),
        ({"messages": [*TURNS, {"role": "assistant", "content": "x", "function_call": {"name": "f"}}]}, ['"messages[2].function_call"', "tool_calls"]),
        ({"messages": [TURNS[0], TURNS[1] | {"reasoning_content": ["a"]}]}, ['"messages[1].reasoning_content"', "a text, got a list"]),
        ({"messages": [TURNS[0], TURNS[1] | {"weight": 0.5}]}, ['"messages[1].weight"', "0 or 1, got 0.5"]),
        ({"messages": [TURNS[0], TURNS[1] | {"train": "no"}]}, ['"messages[1].train"', "got 'no'"]),
        ({"messages": [TURNS[0], TURNS[1] | {"weight": 0}]}, ['"messages"', "none of the assistant's", "nothing to learn"]),
        ({"messages": TURNS, "system": ["a"]}, ['"system"', "a text, got a list"]),
        ({"messages": [*said(("system", "a")), *TURNS], "system": "b"}, ['"system"', "another system message"]),
        ({"messages": TURNS, "tools": "f()"}, ['"tools"', "a list of objects", "a text"]),
        ({"messages": TURNS, "tools": ["f"]}, ['"tools"', "a list of objects", "a list"]),
        ({"messages": TURNS, "history": [["a", "b"]]}, ['"history"', "no place", "as messages"]),
        ({"conversations": TURNS, "images": ["a.png"]}, ['"images"', "only texts"]),
        ({"conversations": TURNS, "image": "a.png"}, ['"image"', "only texts"]),
        ({"prompt": "a", "completion": " b", "audio": {"path": "a.wav"}}, ['"audio"', "only texts"]),
        ({"instruction": "a", "output": "b", "system": ["c"]}, ['"system"', "a text, got a list"]),
        ({"instruction": "a", "output": "b", "history": "c"}, ['"history[0]"', "two texts", "a text"]),
        ({"instruction": "a", "output": "b", "history": [["c", "d"], ["e"]]}, ['"history[1]"', "two texts", "a list"]),
        ({"instruction": "a", "output": "b", "history": [["c", ""]]}, ['"history[0]"', "two texts"]),
        ({"prompt": "a", "completion": " b", "system": "c"}, ['"system"', "no place", '"messages"']),
        ({"prompt": "a", "completion": " b", "history": [["c", "d"]]}, ['"history"', "no place"]),
        ({"prompt": "a", "completion": " b", "tools": [{"name": "f"}]}, ['"tools"', "no place"]),
        ({"prompt": TURNS[:1], "completion": "4"}, ['"completion"', "a text", "two lists, or two texts"]),
        ({"prompt": "2 + 2?", "completion": TURNS[1:]}, ['"prompt"', "a text", "two lists, or two texts"]),
        ({"prompt": TURNS, "completion": said(("user", "a"))}, ['"completion"', "none of the assistant's"]),
        ({"prompt": TURNS[:1], "completion": TURNS[1:], "choices": ["a", "b"], "answer": 0}, ['"choices"', "as texts"]),
        ({"conversations": [{"from": "bot", "value": "a"}]}, ['"conversations[0].from"', "human", "'bot'"]),
        ({"conversations": [{"from": "human", "text": "a"}]}, ['"conversations[0].value"', "the message has from, text"]),
        ({"instruction": "a", "output": " "}, ['"output"', "empty"]),
        ({"instruction": 3, "output": "b"}, ['"instruction"', "a number"]),
        ({"instruction": "a", "input": ["x"], "output": "b"}, ['"input"', "a list"]),
        ({"prompt": "a", "completion": " b", "task": ["t"]}, ['"task"', "a list", "label_field"]),
        ({"prompt": "a", "completion": " b", "task": True}, ['"task"', "true or false"]),
        ({}, ['"prompt"', "no fields"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(line, words):
    with pytest.raises(CorpusError) as caught:
        record(line, "data.jsonl, line 7")
    assert str(caught.value).startswith("data.jsonl, line 7")
    for word in words:
        assert word in str(caught.value)


def test_a_chat_without_the_assistant_cannot_be_made():
    with pytest.raises(CorpusError, match="no message of a chat of 1 is the assistant's"):
        Chat((Message("user", "a"),))
