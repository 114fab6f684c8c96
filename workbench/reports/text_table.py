"""Lays out rows of text as aligned columns that fit a terminal."""

import sys
import textwrap
from collections.abc import Sequence

WIDTH = 80
"""Columns of a terminal that every table should fit."""
LABEL = 28
"""The most columns for the names of rows in a table on its side; longer names take two lines."""
HEADING = 12
"""Columns for the name of a model over narrower numbers; longer names take more lines."""


def table(rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Returns rows as aligned text: the first column to the left, the others to the right.

    A table that is wider than a terminal is continued in further blocks, separated by an empty
    line; each repeats the first column. No cell is left out.

    Args:
        rows: the heading, then the lines; all of the same length.
        width: the most characters in a line. A block has at least two columns, however wide.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    blocks: list[list[int]] = [[]]
    room = width - widths[0]
    for column in range(1, len(widths)):
        if blocks[-1] and room < widths[column] + 2:
            blocks.append([])
            room = width - widths[0]
        blocks[-1].append(column)
        room -= widths[column] + 2
    return "\n\n".join(_aligned(rows, widths, columns) for columns in blocks)


def _aligned(rows: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[int]) -> str:
    """Returns the first column and the given ones as aligned text."""
    lines = [
        [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in columns)]
        for row in rows
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def on_its_side(rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Returns a table with rows and columns exchanged, in as many blocks as its width needs.

    Each row of `rows`, such as a model, becomes a column, so a table of many quantities and few
    models fits a terminal. If the models do not fit side by side, further blocks follow below,
    separated by an empty line. Long names are wrapped; no number is left out.

    Args:
        rows: the heading, then the lines; the first column holds the names.
        width: the most characters in a line. A block has at least one model, however wide it is.
    """
    (_, *quantities), *models = rows
    labels = [textwrap.wrap(name, LABEL, subsequent_indent="  ") or [""] for name in quantities]
    taken = max(len(line) for label in labels for line in label)
    blocks: list[list[tuple[list[str], Sequence[str]]]] = []
    room = 0
    for name, *cells in models:
        # A name may be a formula of any length: it is wrapped to about the width of the numbers.
        lines = textwrap.wrap(name, max(HEADING, *map(len, cells))) or [""]
        column = max(map(len, [*lines, *cells]))
        if not blocks or room < column + 2:
            blocks.append([])
            room = width - taken
        blocks[-1].append((lines, cells))
        room -= column + 2
    # A single model may be wider than the width, and is not cut into further blocks.
    return "\n\n".join(table(_block(labels, block), sys.maxsize) for block in blocks)


def _block(
    labels: Sequence[Sequence[str]], models: Sequence[tuple[Sequence[str], Sequence[str]]]
) -> list[list[str]]:
    """Returns the lines of one block: the names of its models, then a line or more per quantity.

    Args:
        labels: the names of the quantities, each as lines.
        models: the name of each model as lines, with its cells.
    """
    tall = max(len(name) for name, _ in models)
    # Filled up above, so that every name ends directly over its numbers.
    headings = [[*[""] * (tall - len(name)), *name] for name, _ in models]
    lines = [["", *heading] for heading in zip(*headings, strict=True)]
    for number, (first, *rest) in enumerate(labels):
        lines.append([first, *(cells[number] for _, cells in models)])
        lines += [[more, *[""] * len(models)] for more in rest]
    return lines
