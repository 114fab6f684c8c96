"""plans read and saved inside the allowed folders."""

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
    """The plan of a file under an allowed folder, or among the plans of the workdir.

    Raises:
        SessionError: the file lies elsewhere.
        PlanError: with everything that is wrong in the plan, files outside the allowed folders included.
        TrainingError: it cannot be read.
    """
    real = Path(os.path.realpath(file))
    if real.parent != Path(os.path.realpath(workdir.plans)):
        folders.resolve(real.parent)
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return read_plan(file)  # which says what is wrong
    _stay_inside(folders, text, file.parent, str(file))
    return parse_plan(text, home=file.parent, file=str(file))


def check(workdir: Workdir, folders: Folders, text: str) -> Plan:
    """The plan of a text that was edited on the page. Raises as `read` does."""
    home = workdir.plans
    home.mkdir(exist_ok=True)  # a path that begins in it has to be looked at as it will be found
    _stay_inside(folders, text, home, "plan")
    return parse_plan(text, home=home)


def save(workdir: Workdir, folders: Folders, name: str, text: str) -> Path:
    """Keep a plan's text as workdir/plans/NAME.yml, where a command line can name it. Raises as `read` does."""
    file = workdir.plan(name)
    check(workdir, folders, text)
    write_whole(file, text)
    return file


def _stay_inside(folders: Folders, text: str, home: Path, file: str) -> None:
    """Refuse a plan that names files outside the allowed folders, before any of them is opened.

    Raises:
        PlanError: with the line of each.
    """
    faults = Faults(file)
    for place, path in _paths(read_document(text, faults)):
        real = Path(entries.found_from(path, home)).expanduser()
        if os.path.lexists(real) and not folders.holds(real):
            known = ", ".join(map(display_path, folders.roots)) or "none"
            faults.add(place, f"{path} is outside the folders this server may read ({known}).")
    faults.raise_any()


def _paths(document: Any, place: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Every text of a plan that is a path, with its place."""
    if isinstance(document, list):
        for number, item in enumerate(document):
            yield from _paths(item, (*place, number))
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        here = (*place, key)
        if place in (("sources",), ("validation",)) or here[-2:] == ("group_by", "anchors"):
            path, split = path_of(value), value.get("split") if isinstance(value, dict) else None
            yield here, path
            yield here, f"{path}/{split or entries.SPLITS.get(str(place[0]), 'train')}.jsonl"
        elif isinstance(value, str) and (here == ("base",) or here[-2:] == ("group_by", "model")):
            yield here, value
        else:
            yield from _paths(value, here)
