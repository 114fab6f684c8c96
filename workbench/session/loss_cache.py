"""A cache of measured losses in SQLite, keyed by the composition and by the examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.records.database import Database, Schema

# IF NOT EXISTS: files that were made before the table had a version already hold this table.
_TABLE = """
CREATE TABLE IF NOT EXISTS losses (
  composition TEXT NOT NULL, data TEXT NOT NULL, dataset TEXT NOT NULL, value REAL NOT NULL,
  stderr REAL NOT NULL, n INTEGER NOT NULL, tokens INTEGER NOT NULL,
  PRIMARY KEY (composition, data)) WITHOUT ROWID;
"""
SCHEMA = Schema(1, _TABLE, "loss cache")


class Entry(NamedTuple):
    """One measured loss.

    Attributes:
        dataset: name of the dataset.
        value: nats per supervised token.
        stderr: standard error of `value`, in the same unit.
        n: number of examples.
        tokens: number of supervised tokens.
    """

    dataset: str
    value: float
    stderr: float
    n: int
    tokens: int


class LossCache:
    """The losses that were measured in one workdir. May be used from any thread.

    A composition is identified by the digests of its input files, so a changed file gives another
    entry and never an outdated loss.

    Args:
        path: the SQLite file; made, with its folder, if it does not exist. A damaged file is moved
            aside, and an empty one takes its place: its losses are measured again when needed.
        say: called with one sentence if a damaged file was moved aside.

    Raises:
        StoreError: the file cannot be opened, or a newer version of this program made it.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda message: None):
        self._database = Database(path, SCHEMA, say)

    def get(self, composition: str, data: str) -> Entry | None:
        """Returns the loss of a composition on exactly these examples, or None if it is not known.

        Args:
            composition: Models.identity of the recipe, or Contender.identity.
            data: DataSet.keys of the examples.
        """
        rows = self._database.rows(
            "SELECT dataset, value, stderr, n, tokens FROM losses"
            " WHERE composition = ? AND data = ?",
            (composition, data),
        )
        return Entry(*rows[0]) if rows else None

    def put(self, composition: str, data: str, entry: Iterable[Any]) -> Entry:
        """Stores a loss under the keys of `get` and returns it as an Entry.

        Args:
            composition, data: see `get`.
            entry: the five values of an Entry, in its order.

        Raises:
            StoreError: the file cannot be written now.
        """
        kept = Entry(*entry)
        with self._database.writing() as connection:
            connection.execute(
                # Two pages, or two servers on one workdir, may measure the same loss at once.
                "INSERT OR REPLACE INTO losses VALUES (?, ?, ?, ?, ?, ?, ?)",
                (composition, data, *kept),
            )
        return kept

    def close(self) -> None:
        """Closes the file. Closing it again does nothing."""
        self._database.close()
