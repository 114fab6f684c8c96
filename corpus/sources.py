"""JSONL files in, validated examples out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.errors import CorpusError

FIELDS = ("prompt", "completion", "choices", "answer")
"""Fields that are read; a file may carry others, which are ignored."""

ORDER_FILE = "order.json"
"""A JSON list of dataset names, beside the dataset folders, in the order in which the page shows them."""


@dataclass(frozen=True)
class Example:
    """One prompt with the completion a model should give.

    Attributes:
        prompt: what the model is shown, without trailing whitespace.
        completion: what it should write; starts with a space, so that tokens(prompt) + tokens(completion) are the tokens
            of the whole text.
        choices: for multiple choice, the texts to choose from, without the leading space; else empty.
        answer: index of the right choice, or None.
    """

    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    answer: int | None = None


def read_jsonl(path: Path | str) -> list[Example]:
    """Examples of one JSONL file, in file order; blank lines are skipped.

    A line is an object such as {"prompt": "2 + 2 =", "completion": " 4"}; multiple choice adds "choices" and "answer".

    Raises:
        CorpusError: the file is missing, empty or not UTF-8, or a line is malformed; names file, line number and field.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read ({error.strerror}). Give a JSONL file with one example per line."
        ) from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8 and try again.") from None
    # str.splitlines would also split at characters that JSON allows inside a string, such as U+2028
    lines = text.split("\n")
    examples = [_example(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not examples:
        raise CorpusError(
            f'{path}: holds no examples. Write one object per line: {{"prompt": "…", "completion": " …"}}.'
        )
    return examples


def read_datasets(folder: Path | str, split: str = "validation") -> dict[str, list[Example]]:
    """Every folder/<dataset>/<split>.jsonl, in the order of folder/order.json where that exists, else by name.

    Raises:
        CorpusError: no dataset has that split, or a file is malformed.
    """
    folder = Path(folder)
    found = {path.parent.name: path for path in sorted(folder.glob(f"*/{split}.jsonl"))}
    if not found:
        raise CorpusError(
            f"{folder}: no file <dataset>/{split}.jsonl was found. Give a folder that holds one folder per dataset, "
            f"each with {split}.jsonl."
        )
    order = _order(folder / ORDER_FILE)
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    return {name: read_jsonl(found[name]) for name in names}


def write_jsonl(path: Path, examples: Iterable[Example]) -> None:
    """Writes examples so that read_jsonl returns them; the same examples give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        "".join(json.dumps(_row(example), ensure_ascii=False) + "\n" for example in examples).encode("utf-8")
    )


def _row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": example.prompt, "completion": example.completion}
    if example.choices:
        row |= {"choices": list(example.choices), "answer": example.answer}
    return row


def _order(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        order = json.loads(path.read_text("utf-8"))
    except ValueError:
        order = None
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise CorpusError(
            f'{path}: expected a JSON list of dataset names, such as ["cot", "p3"]. Correct or remove the file.'
        )
    return order


def _example(path: Path, number: int, line: str) -> Example:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CorpusError(f"{where}: not valid JSON ({error}). Write one JSON object per line.") from None
    if not isinstance(row, dict):
        raise CorpusError(f"{where}: expected a JSON object with prompt and completion, got {_kind(row)}.")
    prompt, completion = _text(where, row, "prompt"), _text(where, row, "completion")
    choices, answer = _choices(where, row)
    return Example(prompt, completion, choices, answer)


def _text(where: str, row: dict[str, Any], field: str) -> str:
    if field not in row:
        near = ", ".join(sorted(row)) or "no fields"
        raise CorpusError(f'{where}, field "{field}": missing (the line has {near}). Add "{field}" with a text.')
    value = row[field]
    if not isinstance(value, str):
        raise CorpusError(f'{where}, field "{field}": expected a text, got {_kind(value)}. Put it in quotes.')
    if not value.strip():
        raise CorpusError(f'{where}, field "{field}": empty. Write the {field} or remove the line.')
    return value


def _choices(where: str, row: dict[str, Any]) -> tuple[tuple[str, ...], int | None]:
    choices, answer = row.get("choices"), row.get("answer")
    if choices is None and answer is None:
        return (), None
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise CorpusError(f'{where}, field "choices": expected a list of two or more texts, got {_kind(choices)}.')
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise CorpusError(
            f'{where}, field "answer": expected the index of the right choice, 0 to {len(choices) - 1}, got {answer!r}.'
        )
    return tuple(choices), answer


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
