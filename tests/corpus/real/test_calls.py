"""Calls: what a request becomes, and which calls count as right."""

import json

import pytest

from corpus.real.calls import FOLDER, LONGEST, PARTS, items, right

AREA = {
    "name": "area",
    "description": "Area of a triangle. It is half of base times height.",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer", "description": "its base"},
            "unit": {"type": "string", "enum": ["cm", "m"], "description": "of both"},
        },
        "required": ["base"],
    },
}


def package(*rows):
    """The files of the package: rows of (question, ground truth) in the first part."""
    files = {}
    for part in PARTS:
        name, own = f"BFCL_v4_{part}.json", rows if part == PARTS[0] else ()
        asked = [
            {"id": str(n), "question": [[{"role": "user", "content": text}]], "function": [AREA]}
            for n, (text, _) in enumerate(own)
        ]
        truth = [{"id": str(n), "ground_truth": answer} for n, (_, answer) in enumerate(own)]
        for path, lines in ((name, asked), (f"possible_answer/{name}", truth)):
            files[f"{FOLDER}/{path}"] = "\n".join(map(json.dumps, lines)).encode()
    return files


def test_a_request_becomes_a_question_with_signatures_and_the_preferred_values():
    [item] = items(package(("How large?", [{"area": {"base": [10, 11], "unit": ["", "cm"]}}])))
    assert item.question == (
        "How large?\n\nCall one function, as JSON with name and arguments:\n"
        '- area(base: integer, unit?: "cm"|"m"). Area of a triangle'
    )
    assert item.answer == '{"name": "area", "arguments": {"base": 10}}'
    assert right(item.answer, item.accepted)


@pytest.mark.parametrize(
    "answer",
    [
        [{"area": {"base": [{"value": [1]}]}}],
        [{"area": {"base": [[[1]]]}}],
        [{"area": {"base": []}}],
        [{"area": {"base": [1]}}, {"area": {"base": [2]}}],
    ],
    ids=["an object", "a list of lists", "no value", "two calls"],
)
def test_answers_that_are_not_one_call_with_plain_values_are_left_out(answer):
    assert list(items(package(("How large?", answer)))) == []


def test_a_long_question_is_left_out():
    assert list(items(package(("w" * LONGEST, [{"area": {"base": [1]}}])))) == []


ACCEPTED = {"name": "area", "arguments": {"base": [10, "ten"], "unit": ["New York", ""]}}


@pytest.mark.parametrize(
    ("call", "verdict"),
    [
        ({"name": "area", "arguments": {"base": 10}}, True),
        ({"name": "area", "arguments": {"base": 10.0}}, True),
        ({"name": "area", "arguments": {"base": "Ten", "unit": "new-york"}}, True),
        ({"name": "area", "arguments": {"base": 11}}, False),
        ({"name": "area", "arguments": {"base": True}}, False),
        ({"name": "area", "arguments": {"unit": "New York"}}, False),
        ({"name": "area", "arguments": {"base": 10, "more": 1}}, False),
        ({"name": "areas", "arguments": {"base": 10}}, False),
        ({"name": "area", "arguments": [10]}, False),
        ([], False),
    ],
)
def test_verdicts(call, verdict):
    assert right(json.dumps(call), ACCEPTED) is verdict


def test_a_text_that_is_no_json_is_wrong():
    assert not right("area(10)", ACCEPTED)


def test_lists_are_compared_one_by_one():
    accepted = {"name": "f", "arguments": {"x": [["A b", 2]]}}
    for values, verdict in ((["a B", 2], True), (["a b"], False), ([2, "a b"], False)):
        assert right(json.dumps({"name": "f", "arguments": {"x": values}}), accepted) is verdict


def test_true_is_not_one():
    accepted = {"name": "f", "arguments": {"x": [1]}}
    assert not right('{"name": "f", "arguments": {"x": true}}', accepted)
