"""The run store: every measured number, with all that is needed to measure it again.

It is one SQLite file. A row is on disk (WAL, synchronous=FULL) before the number is shown as
finished. A file that SQLite cannot read is renamed, never deleted, and a new one is started.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from evaluation.records.database import Database, Schema

SCHEMA = 1
"""Version of the table, stored as SQLite's user_version. A file with a newer version is refused."""
PACKAGES = ("torch", "transformers", "lm-eval", "dem-workbench")
"""The packages whose versions a number depends on."""
Kind = Literal["loss", "bench", "search"]


def versions() -> dict[str, str]:
    """Returns the installed version of each of PACKAGES, or "not installed"."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def now() -> str:
    """Returns the time in UTC to the millisecond, such as "2026-11-21T12:00:00.000+00:00"."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Run:
    """One measured number of one composition."""

    recipe_digest: str
    """SHA-256 that identifies the recipe."""
    recipe_yaml: str
    """The whole recipe. Merging it again gives the same weights."""
    formula: str
    """The recipe as a line of algebra, such as Θ + 0.70·Δcot."""
    kind: Kind
    """What was measured: validation loss, a benchmark, or a point of a search."""
    task: str
    """A dataset (loss) or a task of lm-eval (bench)."""
    metric: str
    """Name of the metric; in a benchmark it is lm-eval's."""
    value: float
    """NaN if the model gave NaN; such a run is stored but has no rank."""
    stderr: float
    """Standard error of `value`; NaN if there is none, as for a single example."""
    n: int
    """Number of examples."""
    seed: int = 0
    """The seed of the recipe."""
    limit: int | None = None
    """The number of examples that were taken from the start of the task; None for all."""
    suite: str = ""
    """The suite, or the data folder, that the task was taken from."""
    versions: Mapping[str, str] = field(default_factory=versions)
    """Package -> version, of PACKAGES."""
    seconds: float = math.nan
    """Wall time of the measurement that this number is part of."""
    created: str = field(default_factory=now)
    """Time in UTC."""
    label: str = ""
    """A name that the user gave. Nothing else about a run may change."""
    id: int | None = None
    """Given by the store."""


# Derived from the fields, so that the table and the value cannot drift apart.
COLUMNS = tuple(column.name for column in fields(Run) if column.name != "id")
_TYPES = {
    "value": "REAL",
    "stderr": "REAL",
    "seconds": "REAL",
    "n": "INTEGER",
    "seed": "INTEGER",
    "limit": "INTEGER",
}
# Quoted, because `limit` is a keyword of SQL.
_DECLARED = ", ".join(f'"{name}" {_TYPES.get(name, "TEXT")}' for name in COLUMNS)
_TABLE = f"""
CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, {_DECLARED});
CREATE INDEX runs_of_recipe ON runs (recipe_digest);
"""
TABLES = Schema(SCHEMA, _TABLE, "run history")


class RunStore:
    """The runs of one workdir. It can be used from any thread and by several processes at once.

    Args:
        path: the database file. If it does not exist it is created, with its folder.
        say: called with one sentence if a damaged file was set aside.

    Raises:
        StoreError: the path cannot be written, or a newer version of this program made the file.
    """

    def __init__(self, path: str | Path, say: Callable[[str], None] = lambda message: None) -> None:
        self._database = Database(Path(path), TABLES, say)
        self.path, self.message = self._database.path, self._database.message

    def add(self, run: Run) -> int:
        """Stores a run and returns its id. The run is on disk when this returns."""
        return self.add_all([run])[0]

    def add_all(self, runs: list[Run]) -> list[int]:
        """Stores the runs of one measurement, and returns their ids: all of them, or none."""
        return self._database.insert("runs", COLUMNS, [_row(run) for run in runs])

    def runs(self, limit: int | None = None, *, recipe_digest: str | None = None) -> list[Run]:
        """Returns the latest runs, newest first.

        Args:
            limit: the most runs to return; None for all.
            recipe_digest: return only the runs of this recipe.
        """
        condition = "" if recipe_digest is None else "WHERE recipe_digest = ?"
        values = [] if recipe_digest is None else [recipe_digest]
        names = ", ".join(f'"{name}"' for name in ("id", *COLUMNS))
        # By id and not by `created`, because clocks may be set back.
        query = f"SELECT {names} FROM runs {condition} ORDER BY id DESC LIMIT ?"
        # SQLite takes a limit of -1 for no limit.
        rows = self._database.rows(query, [*values, -1 if limit is None else limit])
        return [_run(row) for row in rows]

    def label(self, run: int, label: str) -> None:
        """Gives a run a name.

        Raises:
            KeyError: there is no such run.
        """
        with self._database.writing() as connection:
            changed = connection.execute(
                "UPDATE runs SET label = ? WHERE id = ?", (label, run)
            ).rowcount
        if not changed:
            raise KeyError(f"{self.path} has no run {run}")

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        self._database.close()

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _row(run: Run) -> list[Any]:
    """Returns the columns of a run. SQLite has no NaN, so it is stored as NULL."""
    row = {name: getattr(run, name) for name in COLUMNS}
    for name in ("value", "stderr", "seconds"):
        row[name] = None if math.isnan(row[name]) else float(row[name])
    return list((row | {"versions": json.dumps(dict(run.versions), sort_keys=True)}).values())


def _run(row: tuple[Any, ...]) -> Run:
    """Returns the run that a row of the table holds."""
    values: dict[str, Any] = dict(zip(("id", *COLUMNS), row, strict=True))
    for name in ("value", "stderr", "seconds"):
        values[name] = math.nan if values[name] is None else values[name]
    return Run(**values | {"versions": json.loads(values["versions"])})
