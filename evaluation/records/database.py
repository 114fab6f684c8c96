"""One SQLite file that loses nothing: written through to the disk, checked at opening, set aside when damaged.

A row is on disk (WAL, synchronous=FULL) when a write returns. A file that SQLite cannot read is renamed, never deleted,
and a new one is started. A file that a newer version of this program made is refused.
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
    """The tables of a file."""

    version: int
    """Kept in SQLite's user_version, from 1; a file with a higher one is refused."""
    statements: str
    """CREATE statements with semicolons between them, run on a new file."""
    holds: str
    """What the file holds, in words, for messages: 'run history'."""


class Database:
    """An open file. May be used from any thread, and by several processes at once.

    Args:
        path: the file; made, with its folder, where it is not there.
        schema: its tables.
        say: told in one sentence when a damaged file was set aside.

    Raises:
        StoreError: the path cannot be written, or a newer version of this program made the file.
    """

    def __init__(
        self, path: Path, schema: Schema, say: Callable[[str], None] = lambda message: None
    ) -> None:
        self.path, self.schema = path, schema
        self.message: str | None = None
        """What happened at opening that a reader should know, or None."""
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{path.parent} cannot be made: {error.strerror}. Give a folder you may write to."
            ) from None
        try:
            self._connection = self._open()
        except (
            sqlite3.OperationalError
        ) as error:  # no permission, locked, disk full: the file itself is sound
            raise StoreError(
                f"{path} cannot be opened: {error}. Check its permissions and the disk."
            ) from None
        except sqlite3.DatabaseError:
            self.message = self._set_aside()
            say(self.message)
            self._connection = self._open()

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> list[int]:
        """Store rows that belong together, all of them or, when anything fails, none; their ids.

        Raises:
            StoreError: the file cannot be written now.
        """
        names = ", ".join(f'"{name}"' for name in columns)
        query = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
        with self.writing() as connection:
            return [int(connection.execute(query, row).lastrowid or 0) for row in rows]

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on disk when the block ends, undone whole when it raises.

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
        """Close the file. Calling it again does nothing."""
        with self._lock:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        # isolation_level=None: transactions are begun by hand, so that a write takes its lock at the start
        connection = sqlite3.connect(
            self.path, timeout=5, check_same_thread=False, isolation_level=None
        )
        try:
            connection.execute("PRAGMA busy_timeout = 5000")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if (said := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(said)
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")  # two processes may start on the same new file
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in filter(str.strip, self.schema.statements.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {self.schema.version}")
        connection.execute("COMMIT")
        if found > self.schema.version:
            raise StoreError(
                f"{self.path} was made by a newer version of this program (table version {found}, known up to "
                f"{self.schema.version}). Update the program, or give another working directory."
            )

    def _set_aside(self) -> str:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%f")
        aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        self.path.rename(aside)
        for suffix in (
            "-wal",
            "-shm",
        ):  # they belong to the old file, and would be applied to the new one
            beside = self.path.with_name(self.path.name + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
        return f"{self.path} is damaged; it was kept as {aside.name} and a new {self.schema.holds} was started."
