"""Reads, checks and saves plans, and keeps every path in them inside the allowed folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbing.atomic import write_whole
from plumbing.strict_yaml import Keys
from training.plan import sources as entries
from training.plan.faults import Faults, read_document
from training.plan.plan import Plan
from training.plan.plan_file import parse_plan, read_plan
from workbench.commands import display_path
from workbench.plans.plan_text import path_of
from workbench.session.folders import Folders
from workbench.session.workdir import Workdir


def read(workdir: Workdir, folders: Folders, file: Path) -> Plan:
    """Reads the plan in a file that is in an allowed folder or among the plans of the workdir.

    Raises:
        SessionError: the file is elsewhere.
        PlanError: the plan is wrong; lists all faults, paths outside the allowed folders included.
        TrainingError: the file cannot be read.
    """
    real = Path(os.path.realpath(file))
    if real.parent != Path(os.path.realpath(workdir.plans)):
        folders.resolve(real.parent)
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return read_plan(file)  # raises the error with the reason
    _stay_inside(folders, text, file.parent, str(file))
    return parse_plan(text, home=file.parent, file=str(file))


def check(workdir: Workdir, folders: Folders, text: str) -> Plan:
    """Returns the plan of a text that was edited on the page. Raises as `read` does."""
    home = workdir.plans
    # Relative paths start here: through a missing folder, "../x" would seem not to exist and pass.
    home.mkdir(exist_ok=True)
    _stay_inside(folders, text, home, "plan")
    return parse_plan(text, home=home)


def save(workdir: Workdir, folders: Folders, name: str, text: str) -> Path:
    """Writes a plan's text to workdir/plans/NAME.yml, so that a command line can name it.

    Raises as `read` does, and SessionError if the name is not a plain file name.
    """
    file = workdir.plan(name)
    check(workdir, folders, text)
    write_whole(file, text)
    return file


def _stay_inside(folders: Folders, text: str, home: Path, file: str) -> None:
    """Refuses a plan that names files outside the allowed folders, before any of them is opened.

    Raises:
        PlanError: lists each such path with its line.
    """
    faults = Faults(file)
    for keys, path in _paths(read_document(text, faults)):
        real = Path(entries.resolve_path(path, home)).expanduser()
        # A path that does not exist may be a hub id; reading it fails later, with its own message.
        if os.path.lexists(real) and not folders.holds(real):
            roots = ", ".join(map(display_path, folders.roots)) or "none"
            faults.add(keys, f"{path} is outside the folders this server may read ({roots}).")
    faults.raise_any()


def _paths(document: Any, keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Yields every path in a plan with the keys that lead to it.

    Args:
        document: the plan, or a part of it.
        keys: the keys that lead to this part.
    """
    if isinstance(document, list):
        for number, item in enumerate(document):
            yield from _paths(item, (*keys, number))
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        here = (*keys, key)
        if keys in (("sources",), ("validation",)) or here[-2:] == ("group_by", "anchors"):
            path, split = path_of(value), value.get("split") if isinstance(value, dict) else None
            yield here, path
            # The file in a source's folder too: it may be a link, and a split may be ../../x.
            yield here, f"{path}/{split or entries.SPLITS.get(str(keys[0]), 'train')}.jsonl"
        elif isinstance(value, str) and (here == ("base",) or here[-2:] == ("group_by", "model")):
            yield here, value
        else:
            yield from _paths(value, here)
