"""Reads the fields of the tab Data; what is wrong is told by the field's own label."""

from __future__ import annotations

import math
from pathlib import Path

from corpus.errors import CorpusError
from corpus.subsets import share_of
from workbench.errors import SessionError


def whole(text: object, label: str, least: int = 1) -> int:
    """Returns the whole number of a field.

    Raises:
        SessionError: the field is empty, no whole number, or below `least`.
    """
    value = optional_whole(text, label, least)
    if value is None:
        raise SessionError(f"{label}: the field is empty. Give a whole number of {least} or more.")
    return value


def optional_whole(text: object, label: str, least: int = 1) -> int | None:
    """Returns the whole number of a field, or None if it is empty; raises as `whole`."""
    written = str(text if text is not None else "").strip()
    if not written:
        return None
    if not written.isascii() or not written.isdecimal() or int(written) < least:
        raise SessionError(
            f"{label}: {written!r} was given. Give a whole number of {least} or more."
        )
    return int(written)


def positive(text: object, label: str, example: str) -> float:
    """Returns the number of a field, which is above 0.

    Raises:
        SessionError: the field is empty, no number, not finite, or not above 0.
    """
    written = str(text if text is not None else "").strip()
    try:
        value = float(written)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        given = f"{written!r} was given" if written else "the field is empty"
        raise SessionError(f"{label}: {given}. Give a number above 0, such as {example}.")
    return value


def share(text: object, label: str) -> float:
    """Returns the share of a field, above 0 and at most 1.

    Raises:
        SessionError: the field is empty, no number, or outside that range.
    """
    value = optional_share(text, label)
    if value is None:
        raise SessionError(f"{label}: the field is empty. Give a share, such as 0.05 or 1/20.")
    return value


def optional_share(text: object, label: str) -> float | None:
    """Returns the share of a field, or None if it is empty; raises as `share`."""
    written = str(text if text is not None else "").strip()
    if not written:
        return None
    try:
        value = share_of(written)
    except CorpusError:
        value = None
    if not value:
        raise SessionError(
            f"{label}: {written!r} was given. Give a share above 0 and up to 1, such as 0.05 or "
            "1/20."
        )
    return float(value)


def name_of_split(text: object, label: str) -> str:
    """Returns the name of a split, which becomes a part of a file's name.

    Raises:
        SessionError: it is empty, or has characters that no name of a split has.
    """
    written = str(text or "").strip()
    if not written.replace("-", "").replace("_", "").isalnum():
        raise SessionError(
            f"{label}: {written!r} was given. Give the name of a split, such as train: its file "
            "is <dataset>/train.jsonl."
        )
    return written


def folder(text: object, label: str) -> str:
    """Returns the folder of a field as an absolute path; whether it may be read is checked later.

    Raises:
        SessionError: the field is empty.
    """
    written = str(text or "").strip()
    if not written:
        raise SessionError(
            f"{label}: no folder is given. Choose one from the list, or type its path."
        )
    return str(Path(written).expanduser().absolute())
