"""States of pages in SQLite, for a reload, a second tab and a restart of the server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluation.records.database import Database, Schema

_TABLES = """
CREATE TABLE recipes (
  digest TEXT PRIMARY KEY, models TEXT NOT NULL, state TEXT NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE pages (page TEXT PRIMARY KEY, state TEXT NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
"""
SCHEMA = Schema(1, _TABLES, "list of page states")
MOST_PAGES = 200
"""How many pages are kept; those that were used longest ago are dropped."""
MOST_RECIPES = 20_000
"""How many recipes are kept, likewise; one has a few hundred bytes."""


class PageStates:
    """The states of pages and the recipes that they showed. May be used from any thread.

    Args:
        path: the SQLite file; made, with its folder, if it does not exist.
        say: called with one sentence if a damaged file was moved aside.

    Raises:
        StoreError: the file cannot be opened, or a newer version of this program made it.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda message: None):
        self._database = Database(path, SCHEMA, say)

    def keep(self, page: str, state: dict[str, Any], digest: str, standing: dict[str, Any]) -> None:
        """Stores the state of a page with its history, and the recipe that it shows.

        Args:
            page: the page.
            state: a JSON object that only the page understands.
            digest: of the recipe that the page shows.
            standing: models, method, parameters and omegas of that recipe.

        Raises:
            StoreError: the file cannot be written now.
        """
        now = time.time()
        with self._database.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO pages VALUES (?, ?, ?)", (page, json.dumps(state), now)
            )
            connection.execute(
                "INSERT OR REPLACE INTO recipes VALUES (?, ?, ?, ?)",
                (digest, standing["models"], json.dumps(standing), now),
            )
            for table, key, most in (
                ("pages", "page", MOST_PAGES),
                ("recipes", "digest", MOST_RECIPES),
            ):
                connection.execute(
                    f"DELETE FROM {table} WHERE {key} IN "
                    f"(SELECT {key} FROM {table} ORDER BY used DESC LIMIT -1 OFFSET ?)",
                    (most,),
                )

    def page(self, page: str) -> dict[str, Any] | None:
        """Returns the state that was kept for a page, or None."""
        rows = self._database.rows("SELECT state FROM pages WHERE page = ?", (page,))
        return dict(json.loads(rows[0][0])) if rows else None

    def recipe(self, digest: str) -> dict[str, Any] | None:
        """Returns models, method, parameters and omegas of a recipe that a page showed, or None."""
        rows = self._database.rows("SELECT state FROM recipes WHERE digest = ?", (digest,))
        return dict(json.loads(rows[0][0])) if rows else None

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        self._database.close()
