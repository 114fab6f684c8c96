"""Tables as CSV text, in which a spreadsheet runs nothing."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def csv_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table as CSV with line ends of one character; texts go through `cell` before."""
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(head)
    lines.writerows(rows)
    return table.getvalue()


def cell(text: str) -> str:
    """Returns a text with an apostrophe before it if a spreadsheet would run it as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text
