"""Workdir: the names of every file and folder that the application keeps in its working folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import SessionError


@dataclass(frozen=True)
class Workdir:
    """A folder in which the application keeps what it measures, trains and writes.

    Attributes:
        root: the folder itself.
    """

    root: Path

    @property
    def jobs(self) -> Path:
        """The table of background jobs, a SQLite file."""
        return self.root / "jobs.sqlite"

    @property
    def losses(self) -> Path:
        """The cache of measured losses, a SQLite file."""
        return self.root / "losses.sqlite"

    @property
    def runs(self) -> Path:
        """The table of benchmark scores, a SQLite file."""
        return self.root / "runs.sqlite"

    @property
    def ledger(self) -> Path:
        """What everything cost, a SQLite file."""
        return self.root / "ledger.sqlite"

    @property
    def compared(self) -> Path:
        """The models that the user added to the comparison by folder, a JSON file."""
        return self.root / "compared.json"

    @property
    def recipes(self) -> Path:
        """The folder of recipes that a shown command names."""
        return self.root / "recipes"

    @property
    def plans(self) -> Path:
        """The folder of training plans that the page wrote."""
        return self.root / "plans"

    @property
    def trained(self) -> Path:
        """The folder of training runs."""
        return self.root / "trained"

    @property
    def exports(self) -> Path:
        """The folder of exported models."""
        return self.root / "exports"

    @property
    def pictures(self) -> Path:
        """The folder of computed t-SNE pictures."""
        return self.root / "pictures"

    def plan(self, name: str) -> Path:
        """The file of the plan of this name; SessionError for a name that is not a plain file name."""
        return self.plans / f"{_plain(name, 'the name of the training')}.yml"

    def run(self, name: str) -> Path:
        """The folder of the training run of this name; SessionError for a name that is not a plain file name."""
        return self.trained / _plain(name, "the name of the training")

    def export(self, name: str) -> Path:
        """The folder of the export of this name; SessionError for a name that is not a plain file name."""
        return self.exports / _plain(name, "the folder name")


def _plain(name: str, what: str) -> str:
    """The name itself if it can be a file name on every system.

    Raises:
        SessionError: it is empty, too long, or has other characters, a path separator among them.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name or ""):
        raise SessionError(
            f"{what} is {name!r}; use 1 to 64 letters, digits, dots, dashes or underscores, starting "
            "with a letter or a digit."
        )
    return name
