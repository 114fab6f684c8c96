"""Requests that a call of a function answers, as JSON: from the package bfcl-eval.

These are three parts of the Berkeley Function Calling Leaderboard (Patil et al., ICML 2025;
Apache-2.0): simple_python, multiple and live_simple. Each names the functions and, for every
parameter, the values that count as right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from corpus.real.item import Item

PARTS = ("simple_python", "multiple", "live_simple")
FOLDER = "bfcl_eval/data"
"""Folder of the package that holds the parts."""

LONGEST = 420
"""Most characters of a question. Longer ones describe large interfaces, and fit no small model."""


def items(files: Mapping[str, bytes]) -> Iterator[Item]:
    """Yields the requests whose answer is one call with plain values.

    Args:
        files: path in the package -> content, of each part and of its possible answers.
    """
    for part in PARTS:
        name = f"BFCL_v4_{part}.json"
        asked = _lines(files[f"{FOLDER}/{name}"])
        answers = {
            row["id"]: row["ground_truth"]
            for row in _lines(files[f"{FOLDER}/possible_answer/{name}"])
        }
        for row in asked:
            if made := _item(row, answers[row["id"]]):
                yield made


def right(answer: str, accepted: Any) -> bool:
    """Returns whether a text is an accepted call.

    Texts are compared as the leaderboard compares them: without case, spaces and the marks
    , . / - _ * ^. A parameter with "" among its values may be left out.

    >>> accepted = {"name": "area", "arguments": {"base": [10], "unit": ["cm", ""]}}
    >>> right('{"name": "area", "arguments": {"base": 10}}', accepted)
    True

    Args:
        answer: what the model wrote.
        accepted: {"name": of the function, "arguments": {parameter: [values]}}.
    """
    try:
        call = json.loads(answer)
    except ValueError:
        return False
    if not isinstance(call, dict) or call.get("name") != accepted["name"]:
        return False
    given, known = call.get("arguments"), accepted["arguments"]
    if not isinstance(given, dict) or given.keys() - known.keys():
        return False
    return all(
        any(_same(given[name], value) for value in values) if name in given else "" in values
        for name, values in known.items()
    )


def _lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().splitlines() if line.strip()]


def _item(row: Mapping[str, Any], answer: list[dict[str, Any]]) -> Item | None:
    """Returns the item of a row; None if its answer has nested values or its text is too long."""
    turns = row["question"][0]
    if len(answer) != 1 or len(turns) != 1:
        return None
    [(name, parameters)] = answer[0].items()
    # A nested value has a list of alternatives for each of its own fields; a few have none at all.
    if any(not values or any(map(_nested, values)) for values in parameters.values()):
        return None
    functions = "\n".join(f"- {_signature(each)}" for each in row["function"])
    question = (
        f"{turns[0]['content'].strip()}\n\nCall one function, as JSON with name and arguments:\n"
        f"{functions}"
    )
    if len(question) > LONGEST:
        return None
    # Values come in the order of preference; "" first means that the parameter is not needed.
    arguments = {key: values[0] for key, values in parameters.items() if values[0] != ""}
    call = {"name": name, "arguments": arguments}
    accepted = {"name": name, "arguments": parameters}
    return Item(question, json.dumps(call, ensure_ascii=False), accepted)


def _nested(value: Any) -> bool:
    """Returns whether a value holds an object or a list of lists."""
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, dict | list) for part in parts)


def _signature(function: Mapping[str, Any]) -> str:
    """Writes the description of a function in one line, shorter than its JSON schema.

    >>> _signature({"name": "area", "description": "Area of a square.", "parameters": {…}})
    'area(side: integer, unit?: string). Area of a square.'
    """
    parameters = function["parameters"]
    required = parameters.get("required", ())
    arguments = ", ".join(
        f"{name}{'' if name in required else '?'}: {_type(about)}"
        for name, about in parameters["properties"].items()
    )
    return f"{function['name']}({arguments}). {function['description'].split('. ')[0].strip()}"


def _type(about: Mapping[str, Any]) -> str:
    if "enum" in about:
        return "|".join(json.dumps(value, ensure_ascii=False) for value in about["enum"])
    return str(about["type"])


def _same(given: Any, value: Any) -> bool:
    """Returns whether a given value is an accepted one."""
    if isinstance(given, bool) != isinstance(value, bool):
        return False
    if isinstance(given, str) and isinstance(value, str):
        return _plain(given) == _plain(value)
    if isinstance(given, list) and isinstance(value, list):
        return len(given) == len(value) and all(map(_same, given, value))
    return bool(given == value)


def _plain(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')
