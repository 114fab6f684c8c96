"""Reading JSONL: round trip, order, and the words of every refusal."""

import json

import pytest

from corpus import (
    Chat,
    CorpusError,
    Example,
    Message,
    read_datasets,
    read_jsonl,
    read_records,
    write_jsonl,
)

GOOD = '{"prompt": "2 + 2 =", "completion": " 4"}'


def test_what_is_written_is_read(tmp_path):
    examples = [
        Example("2 + 2 =", " 4"),
        Example("Größer?\nAnswer:", " ja", ("ja", "nein"), 0),
        Example("line\u2028separator", " one\u2029two"),
    ]
    write_jsonl(tmp_path / "a.jsonl", examples)
    assert read_jsonl(tmp_path / "a.jsonl") == examples


def test_records_that_are_written_are_read(tmp_path):
    records = [
        Example("2 + 2 =", " 4", label="sums"),
        Chat(
            (
                Message("system", "Kurz, bitte."),
                Message("user", "Größer?\n"),
                Message("assistant", "ja"),
            ),
            "compare",
        ),
        Chat((Message("user", "a\u2028b"), Message("assistant", "c"))),
        Example("Größer?", " ja", ("ja", "nein"), 0),
    ]
    write_jsonl(tmp_path / "a.jsonl", records)
    assert read_records(tmp_path / "a.jsonl") == records
    write_jsonl(tmp_path / "b.jsonl", records, label_field="kind")
    assert read_records(tmp_path / "b.jsonl", "kind") == records
    assert [item.label for item in read_records(tmp_path / "b.jsonl")] == ["", "", "", ""]


def test_a_chat_line_is_the_documented_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "ö"}]}',
        "utf-8",
    )
    assert read_records(path) == [Chat((Message("user", "…"), Message("assistant", "ö")))]


def test_a_malformed_message_is_named_by_file_line_and_field(tmp_path):
    path = tmp_path / "a.jsonl"
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "bot", "content": "c"},
    ]
    path.write_text(f"{GOOD}\n\n{json.dumps({'messages': turns})}\n", "utf-8")
    with pytest.raises(CorpusError) as caught:
        read_records(path)
    assert str(caught.value) == (
        f"{path}, line 3, field \"messages[2].role\": expected one of system, user, assistant, got 'bot'."
    )


def test_examples_only_refuses_chats_and_reads_no_labels(tmp_path):
    records = [
        Example("a", " b", label="t"),
        Chat((Message("user", "c"), Message("assistant", "d"))),
    ]
    write_jsonl(tmp_path / "a.jsonl", records)
    with pytest.raises(
        CorpusError, match=r'a\.jsonl, line 2: holds a chat, expected "prompt" and "completion"'
    ):
        read_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(
        '{"prompt": "a", "completion": " b", "task": ["any", "thing"]}', "utf-8"
    )
    assert read_jsonl(tmp_path / "b.jsonl") == [Example("a", " b")]


def test_blank_lines_and_unknown_fields_are_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        f'\n{GOOD}\n\n{{"prompt": "a", "completion": " b", "source": 7}}\n', "utf-8"
    )
    assert read_jsonl(tmp_path / "a.jsonl") == [Example("2 + 2 =", " 4"), Example("a", " b")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'prompt': 'a'}", ["line 2", "not valid JSON", "one JSON object per line"]),
        ('["a", "b"]', ["line 2", "expected a JSON object", "with messages", "a list"]),
        (
            '{"completion": " b"}',
            ["line 2", 'field "prompt"', "missing", "the line has completion"],
        ),
        ('{"prompt": 7, "completion": " b"}', ["line 2", 'field "prompt"', "a number", "quotes"]),
        ('{"prompt": "a", "completion": null}', ["line 2", 'field "completion"', "null"]),
        (
            '{"prompt": "a", "completion": "  "}',
            ["line 2", 'field "completion"', "empty", "remove the line"],
        ),
        (
            '{"prompt": "a", "completion": " b", "choices": "b", "answer": 0}',
            ["line 2", 'field "choices"', "a text"],
        ),
        (
            '{"prompt": "a", "completion": " b", "choices": ["b"], "answer": 0}',
            ["line 2", 'field "choices"', "two or more"],
        ),
        (
            '{"prompt": "a", "completion": " b", "choices": ["b", "c"], "answer": 2}',
            ['field "answer"', "0 to 1", "got 2"],
        ),
        (
            '{"prompt": "a", "completion": " b", "choices": ["b", "c"]}',
            ['field "answer"', "0 to 1", "got None"],
        ),
        ('{"prompt": "a", "completion": " b", "answer": 0}', ['field "choices"', "null"]),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, words):
    path = tmp_path / "broken.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", "utf-8")
    with pytest.raises(CorpusError) as caught:
        read_jsonl(path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe4"}')
    for name, words in {
        "none.jsonl": "cannot be read",
        "empty.jsonl": "no examples",
        "latin.jsonl": "byte 12",
    }.items():
        with pytest.raises(CorpusError, match=words) as caught:
            read_jsonl(tmp_path / name)
        assert name in str(caught.value)


def test_datasets_come_in_the_order_of_the_order_file_then_by_name(tmp_path):
    for name in ("alpha", "beta", "gamma", "delta"):
        write_jsonl(tmp_path / name / "validation.jsonl", [Example(name, " x")])
    write_jsonl(tmp_path / "epsilon" / "train.jsonl", [Example("e", " x")])
    assert list(read_datasets(tmp_path)) == ["alpha", "beta", "delta", "gamma"]
    (tmp_path / "order.json").write_text(json.dumps(["gamma", "alpha", "zeta"]), "utf-8")
    assert list(read_datasets(tmp_path)) == ["gamma", "alpha", "beta", "delta"]
    assert list(read_datasets(tmp_path, "train")) == ["epsilon"]


def test_a_folder_without_the_split_and_a_bad_order_file_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"<dataset>/test\.jsonl"):
        read_datasets(tmp_path, "test")
    write_jsonl(tmp_path / "a" / "test.jsonl", [Example("a", " x")])
    for order in ('{"a": 1}', '["a"', "[1]"):
        (tmp_path / "order.json").write_text(order, "utf-8")
        with pytest.raises(CorpusError, match=r"order\.json: expected a JSON list"):
            read_datasets(tmp_path, "test")
