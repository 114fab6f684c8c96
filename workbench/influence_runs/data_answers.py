"""Reads the answers that the runs about data have written, each file once for all who look."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from collections.abc import Mapping


RESULT = "result.json"
"""What --json wrote, in the folder of a run; it is there once the run is finished."""


def selection_file(folder: Path) -> Path:
    """Returns the selection of a run; a file of the same name with .csv is beside it."""
    return folder / f"{folder.name}.selection.json"


def answer(workdir: Workdir, question: str, name: str) -> Mapping[str, Any] | None:
    """Returns the answer of a run as its command wrote it with --json; None before it is there.

    The value is shared and must not be changed.
    """
    file = workdir.data_run(question, name) / RESULT
    try:
        stamp = file.stat()
    except FileNotFoundError:
        return None
    return _read(file, stamp.st_mtime_ns, stamp.st_size)


# A few, because an answer with the texts of a large pool takes megabytes.
@functools.lru_cache(maxsize=4)
def _read(file: Path, written: int, size: int) -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def files(workdir: Workdir, question: str, name: str) -> dict[str, Path]:
    """Returns what a run has to download: file name -> file; only what is there."""
    folder = workdir.data_run(question, name)
    selection = selection_file(folder)
    known = {
        "select": [selection, selection.with_name(f"{folder.name}.csv")],
        "balance": [folder / "rounds" / "balanced.yml"],
        "misfiled": [folder / "suspects.csv"],
    }
    listed = [*known.get(question, []), folder / RESULT]
    return {file.name: file for file in listed if file.is_file()}
