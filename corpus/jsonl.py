"""Reads and writes JSONL files of records, and validates every line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from corpus.errors import CorpusError, raise_all
from corpus.messages import kind
from corpus.reach import check_plain_name
from corpus.records import LABEL, Example, Record, record, row

__all__ = [
    "ORDER_FILE",
    "Example",
    "dataset_files",
    "read_datasets",
    "read_records",
    "write_jsonl",
]

ORDER_FILE = "order.json"
"""A file beside the dataset folders: a JSON list of dataset names, in the page's order."""


def read_records(path: Path | str, label_field: str = LABEL) -> list[Record]:
    """Reads the records of one JSONL file, in file order; blank lines are skipped.

    A line is an object such as {"prompt": "2 + 2 =", "completion": " 4"} or {"messages": [{"role":
    "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}; corpus.records lists
    every layout. Multiple choice adds "choices" and "answer". Fields that no layout knows are
    ignored. The file may also be one JSON list of such objects.

    Args:
        path: the file, UTF-8.
        label_field: the field that names the task of a line; "" reads none.

    Raises:
        CorpusError: the file is missing, empty or not UTF-8, or lines are malformed; names file,
            line number and field of the first ten, and counts the others.
    """
    path = Path(path)
    records: list[Record] = []
    faults: list[str] = []
    rows = _rows(path)
    for where, number, read in rows:
        try:
            records.append(replace(record(read(), where, label_field), line=number))
        except CorpusError as error:
            faults.append(str(error))
    raise_all(faults, len(rows), str(path))
    if not records:
        raise CorpusError(
            f"{path}: holds no examples. Write one object per line: "
            '{"prompt": "…", "completion": " …"}.'
        )
    return records


def read_datasets(folder: Path | str, split: str = "validation") -> dict[str, list[Record]]:
    """Reads every folder/<dataset>/<split>.jsonl, in the order of folder/order.json, else by name.

    Args:
        folder: holds one folder per dataset.
        split: the name of the file in each of them.

    Returns:
        dataset -> its records, examples or chats.

    Raises:
        CorpusError: no dataset has that split, it is a path, or a file is malformed.
    """
    files = dataset_files(folder, split)
    if not files:
        raise CorpusError(
            f"{folder}: no file <dataset>/{split}.jsonl was found. Give a folder that holds one "
            f"folder per dataset, each with {split}.jsonl."
        )
    return {name: read_records(file, "") for name, file in files.items()}


def dataset_files(folder: Path | str, split: str = "validation") -> dict[str, Path]:
    """Returns dataset -> folder/<dataset>/<split>.jsonl, in the order that `read_datasets` has.

    Raises:
        CorpusError: the split is a path, or folder/order.json is malformed.
    """
    check_plain_name("split", split)
    folder = Path(folder)
    files = {path.parent.name: path for path in sorted(folder.glob(f"*/{split}.jsonl"))}
    first = [name for name in _order(folder / ORDER_FILE) if name in files]
    return {name: files[name] for name in dict.fromkeys([*first, *files])}


def write_jsonl(path: Path, records: Iterable[Record], label_field: str = LABEL) -> None:
    """Writes records so that read_records returns them; the same records give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row(item, label_field), ensure_ascii=False) + "\n" for item in records)
    # Text mode would write other line ends on Windows, and so other bytes.
    path.write_bytes("".join(lines).encode("utf-8"))


Row = tuple[str, int, Callable[[], dict[str, Any]]]
"""How messages about a record begin, its number from 1, and a function that returns its fields."""


def _rows(path: Path) -> list[Row]:
    """Returns the rows of a file: its lines that are not blank, or the items of its JSON list."""
    # Decoded in one piece, so that an error names the byte's position in the file. Editors on
    # Windows put a byte order mark in front.
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read ({error.strerror}). "
            "Give a JSONL file with one example per line."
        ) from None
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8 and try again."
        ) from None
    if text.lstrip().startswith("["):
        # Otherwise each line is refused by itself.
        with suppress(ValueError):
            return [
                (where, number, partial(_fields, item, where))
                for number, item in enumerate(json.loads(text), start=1)
                for where in [f"{path}, item {number}"]
            ]
    # str.splitlines would also split at characters that JSON allows in a string, such as U+2028.
    return [
        (where, number, partial(_parsed, line, where))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
        for where in [f"{path}, line {number}"]
    ]


def _parsed(line: str, where: str) -> dict[str, Any]:
    """Returns the fields of a line; `where` is how messages begin."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise CorpusError(
            f"{where}: not valid JSON ({error}). Write one JSON object per line."
        ) from None
    return _fields(value, where)


def _fields(value: Any, where: str) -> dict[str, Any]:
    """Returns the fields of a record."""
    if not isinstance(value, dict):
        raise CorpusError(
            f"{where}: expected a JSON object with prompt and completion, or with messages, "
            f"got {kind(value)}."
        )
    return value


def _order(path: Path) -> list[str]:
    """Reads the order of the datasets; [] if there is no such file."""
    if not path.is_file():
        return []
    try:
        order = json.loads(path.read_text("utf-8"))
    except ValueError:
        order = None
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise CorpusError(
            f'{path}: expected a JSON list of dataset names, such as ["cot", "p3"]. '
            "Correct or remove the file."
        )
    return order
