"""A cache of measured losses in SQLite, keyed by the composition and by the examples."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.records.database import Database, Schema

# IF NOT EXISTS: files of version 1, and those from before the table had a version, have the first.
# Tables of their own for examples and slopes, because most losses of version 1 have neither.
_TABLES = """
CREATE TABLE IF NOT EXISTS losses (
  composition TEXT NOT NULL, data TEXT NOT NULL, dataset TEXT NOT NULL, value REAL NOT NULL,
  stderr REAL NOT NULL, n INTEGER NOT NULL, tokens INTEGER NOT NULL,
  PRIMARY KEY (composition, data)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS examples (
  composition TEXT NOT NULL, data TEXT NOT NULL, sums BLOB NOT NULL, counts BLOB NOT NULL,
  PRIMARY KEY (composition, data)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slopes (
  composition TEXT NOT NULL, data TEXT NOT NULL, vector TEXT NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (composition, data, vector)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS compositions (
  composition TEXT PRIMARY KEY, base TEXT NOT NULL, parts TEXT NOT NULL) WITHOUT ROWID;
"""
SCHEMA = Schema(3, _TABLES, "loss cache")


class Entry(NamedTuple):
    """One measured loss.

    Attributes:
        dataset: name of the dataset.
        value: nats per supervised token.
        stderr: standard error of `value`, in the same unit.
        n: number of examples.
        tokens: number of supervised tokens.
        sums: the summed loss of each example, in nats; empty if an older version of this program
            measured the loss.
        counts: the number of supervised tokens of each example, likewise.
    """

    dataset: str
    value: float
    stderr: float
    n: int
    tokens: int
    sums: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


class Described(NamedTuple):
    """A composition whose losses are stored, and what it is made of.

    Attributes:
        key: Models.identity of its recipe.
        parts: what keys.parts_text returned for it.
        losses: its losses in nats per token, in the order of the examples that were asked for.
    """

    key: str
    parts: str
    losses: tuple[float, ...]


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
            "SELECT dataset, value, stderr, n, tokens, sums, counts FROM losses"
            " LEFT JOIN examples USING (composition, data)"
            " WHERE composition = ? AND data = ?",
            (composition, data),
        )
        if not rows:
            return None
        dataset, value, stderr, n, tokens, sums, counts = rows[0]
        each = tuple(array("d", sums or b"")), tuple(array("q", counts or b""))
        return Entry(dataset, float(value), float(stderr), n, tokens, *each)

    def put(self, composition: str, data: str, entry: Iterable[Any]) -> Entry:
        """Stores a loss under the keys of `get` and returns it as an Entry.

        Args:
            composition, data: see `get`.
            entry: the values of an Entry, in its order.

        Raises:
            StoreError: the file cannot be written now.
        """
        kept = Entry(*entry)
        with self._database.writing() as connection:
            connection.execute(
                # Two pages, or two servers on one workdir, may measure the same loss at once.
                "INSERT OR REPLACE INTO losses VALUES (?, ?, ?, ?, ?, ?, ?)",
                # SQLite has no NaN and stores NULL in its place, which the table refuses; as a text
                # it stays what it is. A single example has no error, and a broken model no loss.
                (composition, data, *(str(v) if v != v else v for v in kept[:5])),
            )
            if kept.sums:
                connection.execute(
                    "INSERT OR REPLACE INTO examples VALUES (?, ?, ?, ?)",
                    (composition, data, array("d", kept.sums), array("q", kept.counts)),
                )
        return kept

    def slopes(self, composition: str, data: str) -> dict[str, float]:
        """Returns the derivatives of a loss that are known: a vector's identity -> ∂L/∂ω.

        Args:
            composition, data: see `get`.
        """
        rows = self._database.rows(
            "SELECT vector, value FROM slopes WHERE composition = ? AND data = ?",
            (composition, data),
        )
        return dict(rows)

    def put_slopes(self, composition: str, data: str, slopes: Mapping[str, float]) -> None:
        """Stores derivatives of a loss.

        Args:
            composition, data: see `get`.
            slopes: identity of a vector -> the derivative with respect to its ω.

        Raises:
            StoreError: the file cannot be written now.
        """
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO slopes VALUES (?, ?, ?, ?)",
                [(composition, data, vector, value) for vector, value in slopes.items()],
            )

    def describe(self, composition: str, base: str, parts: str) -> None:
        """Stores what a composition is made of, so that `compositions` lists it.

        Args:
            composition: see `get`.
            base: identity of the base.
            parts: see workbench.session.keys.parts_text.

        Raises:
            StoreError: the file cannot be written now.
        """
        with self._database.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO compositions VALUES (?, ?, ?)", (composition, base, parts)
            )

    def compositions(self, base: str, data: Sequence[str]) -> list[Described]:
        """Returns the described compositions of a base that have a loss on all of these examples.

        Args:
            base: identity of the base.
            data: DataSet.keys of the examples, at least one.
        """
        places = ", ".join("?" * len(data))
        rows = self._database.rows(
            "SELECT composition, parts, data, value FROM compositions JOIN losses"
            f" USING (composition) WHERE base = ? AND data IN ({places})",
            (base, *data),
        )
        found: dict[str, tuple[str, dict[str, float]]] = {}
        for composition, parts, key, value in rows:
            found.setdefault(composition, (parts, {}))[1][key] = float(value)
        return [
            Described(key, parts, tuple(losses[each] for each in data))
            for key, (parts, losses) in found.items()
            if losses.keys() >= set(data)
        ]

    def close(self) -> None:
        """Closes the file. Closing it again does nothing."""
        self._database.close()
