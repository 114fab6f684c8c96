"""Reads, checks and saves plans, and keeps every path in them inside the allowed folders."""

from __future__ import annotations

import os
from pathlib import Path

from plumbing.atomic import write_whole
from training.plan.plan import Plan
from training.plan.plan_file import parse_plan, read_plan
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
        folders.resolve(real.parent, whole=False)
    return read_plan(real, folders.reach)


def check(workdir: Workdir, folders: Folders, text: str) -> Plan:
    """Returns the plan of a text that was edited on the page. Raises as `read` does."""
    home = workdir.plans
    # Relative paths start here: through a missing folder, "../x" would seem not to exist.
    home.mkdir(exist_ok=True)
    return parse_plan(text, home=home, reach=folders.reach)


def save(workdir: Workdir, folders: Folders, name: str, text: str) -> Path:
    """Writes a plan's text to workdir/plans/NAME.yml, so that a command line can name it.

    Raises as `read` does, and SessionError if the name is not a plain file name.
    """
    file = workdir.plan(name)
    check(workdir, folders, text)
    write_whole(file, text)
    return file
