"""Workdir: the names of all files and folders that the application keeps in its workdir."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbing.atomic import write_whole
from workbench.errors import SessionError

if TYPE_CHECKING:
    from merging.recipe import Recipe


@dataclass(frozen=True)
class Workdir:
    """The folder in which the application keeps what it measures, trains and writes.

    Attributes:
        root: the folder itself.
    """

    root: Path

    @property
    def jobs(self) -> Path:
        """The SQLite file of background jobs."""
        return self.root / "jobs.sqlite"

    @property
    def losses(self) -> Path:
        """The SQLite file of measured losses."""
        return self.root / "losses.sqlite"

    @property
    def runs(self) -> Path:
        """The SQLite file of runs (benchmark scores)."""
        return self.root / "runs.sqlite"

    @property
    def ledger(self) -> Path:
        """The SQLite file of the ledger: what everything cost."""
        return self.root / "ledger.sqlite"

    @property
    def pages(self) -> Path:
        """The SQLite file of the states of pages."""
        return self.root / "pages.sqlite"

    @property
    def compared(self) -> Path:
        """The JSON file of models that the user added to the comparison by their folder."""
        return self.root / "compared.json"

    @property
    def recipes(self) -> Path:
        """The folder of saved recipes, which the shown commands name."""
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
    def searches(self) -> Path:
        """The folder of searches that run in processes of their own."""
        return self.root / "searches"

    @property
    def known(self) -> Path:
        """The folder of lists of what each search knew when it began."""
        return self.root / "known"

    @property
    def units(self) -> Path:
        """The folder in which workers of searches find their work and leave their results."""
        return self.root / "units"

    @property
    def exports(self) -> Path:
        """The folder of exported models."""
        return self.root / "exports"

    @property
    def pictures(self) -> Path:
        """The folder of computed t-SNE pictures."""
        return self.root / "pictures"

    @property
    def studies(self) -> Path:
        """The folder of studies of pools of data: warm-ups and gradients that selections share."""
        return self.root / "studies"

    def data_runs(self, question: str) -> Path:
        """Returns the folder of the runs that asked this question about data."""
        return self.root / "data" / question

    def data_run(self, question: str, name: str) -> Path:
        """Returns the folder of the run with this name; raises as `run` does."""
        return self.data_runs(question) / _check_name(name, "the name of the run")

    def plan(self, name: str) -> Path:
        """Returns the file of the plan with this name; raises as `run` does."""
        return self.plans / f"{_check_name(name, 'the name of the training')}.yml"

    def run(self, name: str) -> Path:
        """Returns the folder of the training run with this name.

        Raises:
            SessionError: the name is not a plain file name.
        """
        return self.trained / _check_name(name, "the name of the training")

    def export(self, name: str) -> Path:
        """Returns the folder of the export with this name; raises as `run` does."""
        return self.exports / _check_name(name, "the folder name")

    def save_recipe(self, recipe: Recipe) -> Path:
        """Writes a recipe to recipes/DIGEST.yml if it is not there yet, and returns that file."""
        from merging.recipe import recipe_yaml

        file = self.recipes / f"{recipe.digest}.yml"
        # The name is the digest, so a file that exists holds this recipe already.
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            write_whole(file, recipe_yaml(recipe))
        return file


def _check_name(name: str, what: str) -> str:
    """Returns the name if it can be a file name on every system.

    Raises:
        SessionError: it is empty or too long, or has a character that is not allowed, such as a
            path separator.
    """
    # A name comes from the page, so it must not lead out of its folder ("../x").
    # A dash at its start would be an option in the shown command. fullmatch also refuses a line
    # break at the end, which `$` would let pass.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name or ""):
        raise SessionError(
            f"{what} is {name!r}; use 1 to 64 letters, digits, dots, dashes or underscores, "
            "starting with a letter or a digit."
        )
    return name
