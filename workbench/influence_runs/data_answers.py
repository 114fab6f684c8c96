"""Reads the answers that the runs about data have written, each file once for all who look."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from workbench.influence_runs.data_settings import BalanceSettings
from workbench.influence_runs.proxy_runs import ProxyMethod, weights_file
from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from collections.abc import Mapping


RESULT = "result.json"
"""What --json wrote, in the folder of a run; it is there once the run is finished."""
ROUNDS = "rounds"
"""The folder of a run's trainings, the OUT of `dem balance`."""
SO_FAR, BALANCED = "rounds.json", "balanced.yml"
"""In it: what is measured so far, and the plan of the proposed mixture."""


def selection_file(folder: Path) -> Path:
    """Returns the selection of a run; a file of the same name with .csv is beside it."""
    return folder / f"{folder.name}.selection.json"


def answer(workdir: Workdir, question: str, name: str) -> Mapping[str, Any] | None:
    """Returns the answer of a run as its command wrote it with --json; None before it is there.

    Of a balance that is not finished, it is what was measured so far. The value is shared and must
    not be changed.
    """
    now = version(workdir, question, name)
    return None if now is None else _read(*now)


def version(workdir: Workdir, question: str, name: str) -> tuple[Path, int, int] | None:
    """Returns the file that has the answer of a run, its time in ns and its bytes, or None.

    Another version is another answer.
    """
    folder = workdir.data_run(question, name)
    known = [folder / RESULT]
    if question == BalanceSettings.QUESTION:
        known.append(folder / ROUNDS / SO_FAR)
    for file in known:
        try:
            stamp = file.stat()
        except FileNotFoundError:
            continue
        return file, stamp.st_mtime_ns, stamp.st_size
    return None


# A few, because an answer with the texts of a large pool takes megabytes.
@functools.lru_cache(maxsize=4)
def _read(file: Path, written: int, size: int) -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def files(workdir: Workdir, question: str, name: str) -> dict[str, Path]:
    """Returns what a run has to download: file name -> file; only what is there."""
    folder = workdir.data_run(question, name)
    selection = selection_file(folder)
    rounds = folder / ROUNDS
    weights = [weights_file(rounds, method) for method in get_args(ProxyMethod)]
    known = {
        "select": [selection, selection.with_name(f"{folder.name}.csv")],
        "balance": [rounds / BALANCED, *weights],
        "misfiled": [folder / "suspects.csv"],
    }
    listed = [*known.get(question, []), folder / RESULT]
    return {file.name: file for file in listed if file.is_file()}
