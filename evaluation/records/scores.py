"""The run store: every number that was measured, with enough beside it to measure it again. SQLite, one file.

A row is written and on disk (WAL, synchronous=FULL) before it is shown as finished. A file that SQLite cannot read is set
aside under another name, never deleted, and a new one is started.
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
"""Version of the table, kept in SQLite's user_version; a newer file is refused, an older one is migrated here."""
PACKAGES = ("torch", "transformers", "lm-eval", "dem-workbench")
Kind = Literal["loss", "bench", "search"]


def versions() -> dict[str, str]:
    """The installed versions of what a number depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def now() -> str:
    """The time in UTC to the millisecond, as it is stored: 2026-11-21T12:00:00.000+00:00."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Run:
    """One measured number of one composition."""

    recipe_digest: str
    recipe_yaml: str
    """The whole recipe: read it, merge it, and the same weights are there again."""
    formula: str
    """The recipe as a reader sees it, such as Θ + 0.70·Δcot."""
    kind: Kind
    """What was measured: validation loss, a benchmark, or a point of a search."""
    task: str
    """A dataset (loss) or a task of lm-eval (bench)."""
    metric: str
    value: float
    """NaN where the model gave NaN; such a run is kept and ranks nowhere."""
    stderr: float
    """NaN where there is none, as for a single example."""
    n: int
    """Examples."""
    seed: int = 0
    limit: int | None = None
    """The first so many examples of the task; None for all."""
    suite: str = ""
    """The suite, or the data folder, that the task was taken from."""
    versions: Mapping[str, str] = field(default_factory=versions)
    seconds: float = math.nan
    """Wall time of the measurement that this number is part of."""
    created: str = field(default_factory=now)
    label: str = ""
    """A name that the user gave; the only thing about a run that may change."""
    id: int | None = None
    """Given by the store."""


COLUMNS = tuple(column.name for column in fields(Run) if column.name != "id")
_TYPES = {
    "value": "REAL",
    "stderr": "REAL",
    "seconds": "REAL",
    "n": "INTEGER",
    "seed": "INTEGER",
    "limit": "INTEGER",
}
_TABLE = f"""
CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, {", ".join(f'"{name}" {_TYPES.get(name, "TEXT")}' for name in COLUMNS)});
CREATE INDEX runs_of_recipe ON runs (recipe_digest);
"""
TABLES = Schema(SCHEMA, _TABLE, "run history")


class RunStore:
    """The runs of one working directory. May be used from any thread, and by several processes at once.

    Args:
        path: the database file; made, with its folder, where it is not there.
        say: told in one sentence when a damaged file was set aside.

    Raises:
        StoreError: the path cannot be written, or a newer version of this program made the file.
    """

    def __init__(self, path: str | Path, say: Callable[[str], None] = lambda message: None) -> None:
        self._database = Database(Path(path), TABLES, say)
        self.path, self.message = self._database.path, self._database.message

    def add(self, run: Run) -> int:
        """Store a run and return its id; it is on disk when this returns."""
        return self.add_all([run])[0]

    def add_all(self, runs: list[Run]) -> list[int]:
        """Store the runs of one measurement: all of them or, when anything fails, none."""
        return self._database.insert("runs", COLUMNS, [_row(run) for run in runs])

    def runs(self, limit: int | None = None, *, recipe_digest: str | None = None) -> list[Run]:
        """The latest runs, newest first; of one recipe where its digest is given."""
        where = "" if recipe_digest is None else "WHERE recipe_digest = ?"
        given = [] if recipe_digest is None else [recipe_digest]
        names = ", ".join(f'"{name}"' for name in ("id", *COLUMNS))
        query = f"SELECT {names} FROM runs {where} ORDER BY id DESC LIMIT ?"
        rows = self._database.rows(query, [*given, -1 if limit is None else limit])
        return [_run(row) for row in rows]

    def label(self, run: int, label: str) -> None:
        """Give a run a name.

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
        """Close the file. Calling it again does nothing."""
        self._database.close()

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _row(run: Run) -> list[Any]:
    """The columns of a run. SQLite has no NaN: it is stored as NULL."""
    row = {name: getattr(run, name) for name in COLUMNS}
    for name in ("value", "stderr", "seconds"):
        row[name] = None if math.isnan(row[name]) else float(row[name])
    return list((row | {"versions": json.dumps(dict(run.versions), sort_keys=True)}).values())


def _run(row: tuple[Any, ...]) -> Run:
    found: dict[str, Any] = dict(zip(("id", *COLUMNS), row, strict=True))
    for name in ("value", "stderr", "seconds"):
        found[name] = math.nan if found[name] is None else found[name]
    return Run(**found | {"versions": json.loads(found["versions"])})
