"""Losses measured before, by what they were measured on: composition, dataset and number of examples."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = """
CREATE TABLE IF NOT EXISTS losses (
  composition TEXT NOT NULL, data TEXT NOT NULL, dataset TEXT NOT NULL, value REAL NOT NULL, stderr REAL NOT NULL,
  n INTEGER NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (composition, data)) WITHOUT ROWID;
"""


class Entry(NamedTuple):
    """A measured loss in nats per supervised token, its standard error, and how many examples and tokens it is of."""

    dataset: str
    value: float
    stderr: float
    n: int
    tokens: int


class LossCache:
    """A cache on disk. A composition is named by the digests of its inputs, so a changed file is another entry."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(SCHEMA)

    def get(self, composition: str, data: str) -> Entry | None:
        """What was measured, or None."""
        with self._lock:
            row = self._db.execute(
                "SELECT dataset, value, stderr, n, tokens FROM losses WHERE composition = ? AND data = ?",
                (composition, data),
            ).fetchone()
        return Entry(*row) if row else None

    def put(self, composition: str, data: str, entry: Iterable[Any]) -> Entry:
        """Keep a measurement, and give it back as an entry."""
        kept = Entry(*entry)
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO losses VALUES (?, ?, ?, ?, ?, ?, ?)",
                (composition, data, *kept),
            )
        return kept

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
