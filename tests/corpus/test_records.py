"""One line to one record: four layouts, one error per way to be wrong, and the way back."""

import pytest

from corpus import Chat, CorpusError, Example, Message
from corpus.records import layout, record, row

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
            Example("Instruction: Add.\nInput: 2 and 2\nOutput:", " 4"),
        ),
        (
            {"instruction": "Greet.", "input": "", "output": "\nHi", "task": 7},
            "instruction",
            Example("Instruction: Greet.\nOutput:", "\nHi", label="7"),
        ),
        ({"instruction": "Greet.", "input": None, "output": "Hi"}, "instruction", Example("Instruction: Greet.\nOutput:", " Hi")),
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
    [Example("a", " b"), Example("a", " b", ("b", "c"), 1, "t"), CHAT, Chat(CHAT.messages)],
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
        ({"messages": [*TURNS, {"role": "User", "content": "a"}]}, ['"messages[2].role"', "system, user, assistant, got 'User'"]),
        ({"messages": [*TURNS, {"role": "tool", "content": "a"}]}, ['"messages[2].role"', "'tool'"]),
        ({"messages": [{"content": "a"}]}, ['"messages[0].role"', "got nothing (the message has content)"]),
        ({"messages": [{}]}, ['"messages[0].role"', "no fields"]),
        ({"messages": [{"role": ["user"], "content": "a"}]}, ['"messages[0].role"', "got a list"]),
        ({"messages": [*TURNS, {"role": "user"}]}, ['"messages[2].content"', "a text, got nothing (the message has role)"]),
        ({"messages": said(("user", None))}, ['"messages[0].content"', "got null"]),
        ({"messages": said(("user", [{"type": "image"}]))}, ['"messages[0].content"', "got a list"]),
        ({"messages": said(("user", " \n"))}, ['"messages[0].content"', "an empty one", "remove the line"]),
        (
            {"messages": [*TURNS, {"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]}]},
            ['"messages[2].tool_calls"', "cannot be trained on"],
        ),
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


def test_no_calls_of_tools_is_as_none():
    turns = [TURNS[0], TURNS[1] | {"tool_calls": None}]
    assert record({"messages": turns}, "here") == Chat(CHAT.messages)


def test_a_chat_without_the_assistant_cannot_be_made():
    with pytest.raises(CorpusError, match="no message of a chat of 1 is the assistant's"):
        Chat((Message("user", "a"),))
