"""Checks which files the `datasets` library would read for a folder in the layout of hub datasets.

The folder's card (README.md) may name its data files by any path or address, and the library
follows them: /etc/x.csv, ../../x, https://…, zip://*::x.zip. Some of its readers open further files
or unpickle. So the card is checked before the library sees it, and the files it found before it
opens them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus.errors import CorpusError
from corpus.reach import Reach

CARDS = ("README.md", ".huggingface.yaml")
"""The files in which the library looks for the names of data files."""

READERS = ("json", "parquet", "csv", "arrow")
"""The library's readers that give rows and open nothing besides their file."""

PACKED = re.compile(r"\.(zip|tar|tgz|7z|rar)(\.|$)", re.IGNORECASE)
"""Archives: what is in them is unpacked by the library, with names of its own."""


# The block with which a README begins, exactly as huggingface_hub 1.x finds it (repocard.py).
_BLOCK = re.compile(r"\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)")


def check_card(folder: Path) -> None:
    """Refuses a folder whose card names data files outside the folder, before it is followed.

    Raises:
        CorpusError: a pattern is absolute, an address, or has "..", or the card is not YAML.
    """
    for name in CARDS:
        file = folder / name
        if not file.is_file():
            continue
        for pattern in _patterns(_yaml(file)):
            inside = not pattern.startswith(("/", "~")) and ".." not in re.split(r"[/\\]", pattern)
            if not inside or "://" in pattern or "::" in pattern or Path(pattern).is_absolute():
                raise CorpusError(
                    f"{file} names the data files {pattern!r}, which are not in its folder. Such a "
                    "card is not followed; give the path of a data file instead."
                )


def check_files(builder: Any, folder: Path | None, reach: Reach) -> None:
    """Refuses files that the library found outside the dataset, and readers that open more.

    Args:
        builder: a datasets.DatasetBuilder that has read nothing but headers yet.
        folder: the dataset's folder; None for a dataset of the hub.
        reach: which files may be read.

    Raises:
        CorpusError: see above; the message names the file or the reader.
    """
    files = [
        str(file) for found in (builder.config.data_files or {}).values() for file in list(found)
    ]
    root = None if folder is None else os.path.realpath(folder)
    for file in files:
        if root is None:
            outside = not file.startswith("hf://datasets/")
        else:
            # A link in the folder is the user's own, unless the reach is limited.
            path = os.path.abspath(file)  # noqa: PTH100
            outside = os.path.commonpath([root, path]) != root or not reach.holds(path)
        if outside or PACKED.search(file):
            raise CorpusError(
                f"the dataset has the data file {file}, which is "
                f"{'outside the dataset' if outside else 'an archive'}. Give the path of a JSONL "
                "or parquet file instead."
            )
    # A dataset that the library has in its cache has no files any more, and an own name.
    if files and builder.__module__.rpartition(".")[2] not in READERS:
        raise CorpusError(
            f"the dataset has files such as {Path(files[0]).name}, expected JSONL, parquet, CSV or "
            "arrow. Write the records into a JSONL file, and give that."
        )


def _yaml(file: Path) -> Any:
    """Returns the YAML of a card: all of a .yaml file, of a README the part between two '---'."""
    import yaml

    try:
        text = file.read_bytes().decode("utf-8")
        if file.suffix == ".md":
            block = _BLOCK.match(text)
            text = block[1] if block else ""
        return yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CorpusError(
            f"{file} cannot be read ({str(error).splitlines()[0]}). Correct or remove it."
        ) from None


def _patterns(card: Any) -> Iterator[str]:
    """Yields every text under data_files and data_dir, at any depth of a card."""
    if isinstance(card, list):
        for item in card:
            yield from _patterns(item)
    if isinstance(card, dict):
        for key, value in card.items():
            yield from _texts(value) if key in ("data_files", "data_dir") else _patterns(value)


def _texts(value: Any) -> Iterator[str]:
    """Yields every text of a value, except the names of splits."""
    if isinstance(value, str):
        yield value
    for item in value if isinstance(value, list) else []:
        yield from _texts(item)
    for key, item in value.items() if isinstance(value, dict) else []:
        if key != "split":
            yield from _texts(item)
