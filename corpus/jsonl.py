"""Reads and writes JSONL files of records, and validates every line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from corpus.errors import CorpusError
from corpus.reach import check_plain_name
from corpus.records import LABEL, Chat, Example, Record, kind, record, row

__all__ = ["ORDER_FILE", "Example", "read_datasets", "read_jsonl", "read_records", "write_jsonl"]

ORDER_FILE = "order.json"
"""A file beside the dataset folders: a JSON list of dataset names, in the page's order."""


def read_records(path: Path | str, label_field: str = LABEL) -> list[Record]:
    """Reads the records of one JSONL file, in file order; blank lines are skipped.

    A line is an object such as {"prompt": "2 + 2 =", "completion": " 4"} or {"messages": [{"role":
    "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}; corpus.records lists
    every layout. Multiple choice adds "choices" and "answer". Other fields are ignored.

    Args:
        path: the file, UTF-8.
        label_field: the field that names the task of a line; "" reads none.

    Raises:
        CorpusError: the file is missing, empty or not UTF-8, or a line is malformed; names file,
            line number and field.
    """
    return [item for _, item in _numbered(Path(path), label_field)]


def read_jsonl(path: Path | str) -> list[Example]:
    """Reads prompts with completions as read_records does, but refuses chats and ignores labels.

    Raises:
        CorpusError: as read_records, or a line holds a chat.
    """
    examples = []
    for number, item in _numbered(Path(path), ""):
        if isinstance(item, Chat):
            raise CorpusError(
                f'{path}, line {number}: holds a chat, expected "prompt" and "completion". Write '
                'what comes before the answer as "prompt" and the answer as "completion". Chats '
                "can only be used for training."
            )
        examples.append(item)
    return examples


def read_datasets(folder: Path | str, split: str = "validation") -> dict[str, list[Example]]:
    """Reads every folder/<dataset>/<split>.jsonl, in the order of folder/order.json, else by name.

    Args:
        folder: holds one folder per dataset.
        split: the name of the file in each of them.

    Returns:
        dataset -> its examples.

    Raises:
        CorpusError: no dataset has that split, it is a path, or a file is malformed.
    """
    check_plain_name("split", split)
    folder = Path(folder)
    files = {path.parent.name: path for path in sorted(folder.glob(f"*/{split}.jsonl"))}
    if not files:
        raise CorpusError(
            f"{folder}: no file <dataset>/{split}.jsonl was found. Give a folder that holds one "
            f"folder per dataset, each with {split}.jsonl."
        )
    order = _order(folder / ORDER_FILE)
    names = [name for name in order if name in files] + [
        name for name in files if name not in order
    ]
    return {name: read_jsonl(files[name]) for name in names}


def write_jsonl(path: Path, records: Iterable[Record], label_field: str = LABEL) -> None:
    """Writes records so that read_records returns them; the same records give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row(item, label_field), ensure_ascii=False) + "\n" for item in records)
    # Text mode would write other line ends on Windows, and so other bytes.
    path.write_bytes("".join(lines).encode("utf-8"))


def _numbered(path: Path, label_field: str) -> list[tuple[int, Record]]:
    """Returns the line number, from 1, and the record of every line that is not blank."""
    # Decoded in one piece, so that an error names the byte's position in the file.
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read ({error.strerror}). "
            "Give a JSONL file with one example per line."
        ) from None
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8 and try again."
        ) from None
    # str.splitlines would also split at characters that JSON allows in a string, such as U+2028.
    lines = enumerate(text.split("\n"), start=1)
    records = [
        (number, _record(f"{path}, line {number}", line, label_field))
        for number, line in lines
        if line.strip()
    ]
    if not records:
        raise CorpusError(
            f"{path}: holds no examples. Write one object per line: "
            '{"prompt": "…", "completion": " …"}.'
        )
    return records


def _record(where: str, line: str, label_field: str) -> Record:
    """Reads the record of one line; `where` is how messages begin."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise CorpusError(
            f"{where}: not valid JSON ({error}). Write one JSON object per line."
        ) from None
    if not isinstance(fields, dict):
        raise CorpusError(
            f"{where}: expected a JSON object with prompt and completion, or with messages, "
            f"got {kind(fields)}."
        )
    return record(fields, where, label_field)


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
