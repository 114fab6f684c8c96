"""Strict reading of JSON files that strangers made: limited size, no key twice, no NaN.

Python's reader takes the last of two equal keys, so that two tools could read one file differently.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError


def read_json(path: Path, limit: int = 1_000_000, *, finite: bool = True) -> Any:
    """Reads a JSON file strictly; see parse_json.

    Args:
        path: the file.
        limit: the largest size that is read, in bytes.
        finite: refuse NaN and Infinity.

    Raises:
        CheckpointError: if the file is missing, too large or not strict JSON. The message names
            the file.
    """
    size = regular_file(path).st_size
    # Before the file is read: a stranger's file may be larger than the memory.
    if size > limit:
        raise CheckpointError(f"{path} has {size:,} bytes; at most {limit:,} are read.")
    return parse_json(path.read_bytes(), str(path), finite=finite)


def parse_json(text: bytes, where: str, *, finite: bool = True) -> Any:
    """Parses UTF-8 JSON strictly: no key occurs twice, and no NaN or Infinity if `finite`.

    Args:
        text: the JSON text.
        where: the source of the text, for the message.
        finite: refuse NaN and Infinity, which Python's reader accepts.

    Raises:
        CheckpointError: if the text is not strict JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, value in pairs:
            if key in entries:
                raise CheckpointError(f"{where}: the key {key[:80]!r} occurs twice.")
            entries[key] = value
        return entries

    def constant(word: str) -> float:
        if finite:
            raise CheckpointError(f"{where}: {word} is not JSON.")
        return float(word)

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    # ValueError covers bad UTF-8 and whole numbers of more than 4,300 digits too; RecursionError
    # is raised by thousands of nested brackets.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON ({error}).") from None


def regular_file(path: Path) -> os.stat_result:
    """Returns the status of a readable regular file.

    Reading a FIFO would hang, and a device never ends; so both are refused.

    Raises:
        CheckpointError: if the file is missing, unreadable or not a regular file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file.")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path} cannot be read: permission denied.")
    return status


def check_types(document: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> None:
    """Checks that each value has exactly its type; isinstance would accept true for a number.

    Args:
        document: key -> value.
        kinds: key -> type, for every key to check.
        where: begins the message: the file, and the part of it.

    Raises:
        CheckpointError: naming the key, what it is and what is expected.
    """
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise CheckpointError(
                f"{where}: {key} is {repr(document[key])[:80]}, expected {kind.__name__}."
            )
