"""Reading JSONL: round trip, order, and the words of every refusal."""

import json
import re

import pytest

from corpus import (
    Chat,
    CorpusError,
    Example,
    Message,
    dataset_files,
    read_datasets,
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
    assert read_records(tmp_path / "a.jsonl") == examples


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
        f"{path}, line 3, field \"messages[2].role\": expected one of system, developer, user, assistant, tool, got 'bot'."
    )


def test_datasets_to_measure_may_be_chats_and_their_labels_are_not_read(tmp_path):
    chat = Chat((Message("user", "c"), Message("assistant", "d")))
    write_jsonl(tmp_path / "a" / "validation.jsonl", [chat, Example("a", " b", label="t")])
    assert read_datasets(tmp_path) == {"a": [chat, Example("a", " b")]}
    line = '{"prompt": "a", "completion": " b", "task": ["any", "thing"]}'
    (tmp_path / "a" / "validation.jsonl").write_text(line, "utf-8")
    assert read_datasets(tmp_path) == {"a": [Example("a", " b")]}


def test_blank_lines_and_unknown_fields_are_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        f'\n{GOOD}\n\n{{"prompt": "a", "completion": " b", "source": 7}}\n', "utf-8"
    )
    assert read_records(tmp_path / "a.jsonl") == [Example("2 + 2 =", " 4"), Example("a", " b")]


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
        read_records(path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_all_bad_lines_are_counted_and_the_first_ten_shown_with_their_own_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    good, bad = GOOD, ['{"prompt": 1}', "{", "[]"]
    path.write_text("\n".join([good, "", *bad, good, *['{"prompt": ""}'] * 10, good]), "utf-8")
    with pytest.raises(CorpusError) as caught:
        read_records(path)
    head, *shown = str(caught.value).split("\n")
    assert head == f"{path}: 13 of 16 records cannot be used; the first 10:"
    places = [re.findall(r"line (\d+)", line.partition(": ")[0]) for line in shown]
    assert places == [["3"], ["4"], ["5"], ["7", "8", "9", "10", "11", "12", "13"]]
    assert str(path) not in "".join(shown)


def test_a_list_in_one_json_text_and_a_byte_order_mark_are_read(tmp_path):
    rows = [{"prompt": "a", "completion": " b"}, {"prompt": "c", "completion": " d"}]
    wanted = [Example("a", " b"), Example("c", " d")]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    for number, text in enumerate((lines, json.dumps(rows), f"\n{json.dumps(rows, indent=2)}\n")):
        for encoding in ("utf-8", "utf-8-sig"):
            path = tmp_path / f"{number}-{encoding}.json"
            path.write_text(text, encoding)
            assert read_records(path) == wanted
    assert [item.line for item in read_records(path)] == [1, 2]
    (tmp_path / "bad.json").write_text(json.dumps([*rows, {"prompt": "a"}, 7]), "utf-8")
    with pytest.raises(
        CorpusError, match=r'2 of 4 .*\n  item 3, field "completion".*\n  item 4: expec'
    ):
        read_records(tmp_path / "bad.json")
    (tmp_path / "cut.json").write_text(json.dumps(rows, indent=2)[:-9], "utf-8")
    with pytest.raises(CorpusError, match="line 1: not valid JSON"):
        read_records(tmp_path / "cut.json")


def test_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe4"}')
    for name, words in {
        "none.jsonl": "cannot be read",
        "empty.jsonl": "no examples",
        "latin.jsonl": "byte 12",
    }.items():
        with pytest.raises(CorpusError, match=words) as caught:
            read_records(tmp_path / name)
        assert name in str(caught.value)


def test_datasets_come_in_the_order_of_the_order_file_then_by_name(tmp_path):
    for name in ("alpha", "beta", "gamma", "delta"):
        write_jsonl(tmp_path / name / "validation.jsonl", [Example(name, " x")])
    write_jsonl(tmp_path / "epsilon" / "train.jsonl", [Example("e", " x")])
    assert list(read_datasets(tmp_path)) == ["alpha", "beta", "delta", "gamma"]
    (tmp_path / "order.json").write_text(json.dumps(["gamma", "alpha", "zeta"]), "utf-8")
    assert list(read_datasets(tmp_path)) == ["gamma", "alpha", "beta", "delta"]
    assert list(read_datasets(tmp_path, "train")) == ["epsilon"]
    assert dataset_files(tmp_path) == {
        name: tmp_path / name / "validation.jsonl" for name in read_datasets(tmp_path)
    }
    assert dataset_files(tmp_path, "test") == {}


def test_a_folder_without_the_split_and_a_bad_order_file_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"<dataset>/test\.jsonl"):
        read_datasets(tmp_path, "test")
    write_jsonl(tmp_path / "a" / "test.jsonl", [Example("a", " x")])
    for order in ('{"a": 1}', '["a"', "[1]"):
        (tmp_path / "order.json").write_text(order, "utf-8")
        with pytest.raises(CorpusError, match=r"order\.json: expected a JSON list"):
            read_datasets(tmp_path, "test")
