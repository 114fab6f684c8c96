"""An SQLite file that loses no row, even if the power fails or the file is damaged.

A row is on disk (WAL, synchronous=FULL) when a write returns. A file that SQLite cannot read is
renamed, never deleted, and a new one is started. A file of a newer version of this program is
refused.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.errors import StoreError


class Schema(NamedTuple):
    """The tables of a database file."""

    version: int
    """Stored as SQLite's user_version, from 1. A file with a higher version is refused."""
    statements: str
    """CREATE statements separated by semicolons, which are run on a file of an older version.

    A new file has version 0. From version 2 on each says IF NOT EXISTS.
    """
    holds: str
    """What the file holds, for messages; for example 'run history'."""


class Database:
    """An open database file. It can be used from any thread and by several processes at once.

    Args:
        path: the file. If it does not exist it is created, with its folder.
        schema: the tables of the file.
        say: called with one sentence if a damaged file was set aside.

    Raises:
        StoreError: the path cannot be written, or a newer version of this program made the file.
    """

    def __init__(
        self, path: Path, schema: Schema, say: Callable[[str], None] = lambda message: None
    ) -> None:
        self.path, self.schema = path, schema
        self.message: str | None = None
        """One sentence if a damaged file was set aside at opening; None otherwise."""
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{path.parent} cannot be made: {error.strerror}. Give a folder you may write to."
            ) from None
        try:
            self._connection = self._open()
        # An OperationalError says that permission is missing, or that the file is locked or the
        # disk full: the file itself is sound. Any other DatabaseError says that it is damaged.
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{path} cannot be opened: {error}. Check its permissions and the disk."
            ) from None
        except sqlite3.DatabaseError:
            self.message = self._set_aside()
            say(self.message)
            self._connection = self._open()

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Returns the rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> list[int]:
        """Stores rows that belong together, and returns their ids. If one fails, none is stored.

        Raises:
            StoreError: the file cannot be written now.
        """
        names = ", ".join(f'"{name}"' for name in columns)
        query = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
        with self.writing() as connection:
            return [int(connection.execute(query, row).lastrowid or 0) for row in rows]

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Opens a transaction: it is on disk when the block ends, and undone if the block raises.

        Raises:
            StoreError: the file cannot be written now.
        """
        with self._lock:
            try:
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    yield self._connection
            except sqlite3.OperationalError as error:
                raise StoreError(
                    f"{self.path} cannot be written: {error}. Check its permissions and the disk."
                ) from None

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        with self._lock:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        """Returns a connection to the file, once it is checked and has its tables."""
        # isolation_level=None: `writing` begins transactions itself, so that a write takes its lock
        # at the start and cannot fail half-way because another process holds it.
        connection = sqlite3.connect(
            self.path, timeout=5, check_same_thread=False, isolation_level=None
        )
        try:
            connection.execute("PRAGMA busy_timeout = 5000")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # quick_check leaves out the comparison of indexes with their tables, which makes the
            # full integrity_check slow on a long history. 1: the first fault is enough to set the
            # file aside.
            if (result := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(result)
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Creates the tables that a new file, or one of an older version, lacks.

        Raises:
            StoreError: a newer version of this program made the file.
        """
        # The lock is taken at once, because two processes may start on the same new file.
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version < self.schema.version:
            for statement in filter(str.strip, self.schema.statements.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {self.schema.version}")
        connection.execute("COMMIT")
        if version > self.schema.version:
            raise StoreError(
                f"{self.path} was made by a newer version of this program (table version "
                f"{version}, known up to {self.schema.version}). "
                "Update the program, or give another working directory."
            )

    def _set_aside(self) -> str:
        """Renames a damaged file with its side files, and returns a sentence that says so."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%f")
        aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        self.path.rename(aside)
        # SQLite's side files belong to the old file; left in place, they would be applied to the
        # new one.
        for suffix in ("-wal", "-shm"):
            beside = self.path.with_name(self.path.name + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
        return (
            f"{self.path} is damaged; it was kept as {aside.name} "
            f"and a new {self.schema.holds} was started."
        )
