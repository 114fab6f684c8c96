"""Writes what was chosen: a selection, which a training plan names, and a CSV beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from corpus.selection import SUFFIX, Selection, write_selection
from corpus.source import Source
from influence.csv_tables import cell, csv_table
from influence.selection.choose import ChosenSet
from influence.selection.example_set import ExampleSet
from plumbing.atomic import write_whole

HEAD = ("rank", "source", "number", "score", "query", "supervised", "tokens", "text")


def write_choice(
    path: Path,
    sources: Mapping[str, Source],
    pool: ExampleSet,
    choice: ChosenSet,
    *,
    cache: Path | None = None,
) -> Selection:
    """Writes <name>.selection.json and <name>.csv.

    The CSV has a line for each chosen example, in the order of choice: rank from 1, source and
    number, score, the query that it was chosen for (empty for the mean), its tokens, its text. A
    text that a spreadsheet would run as a formula is prefixed with an apostrophe.

    Args:
        path: the selection; its name ends in ".selection.json".
        sources: the sources that the pool was loaded from.
        pool: what was chosen from.
        choice: what was chosen.
        cache: as in corpus.source.load_source.

    Raises:
        CorpusError: as corpus.selection.write_selection.
    """
    selection = write_selection(path, sources, choice.chosen, about=choice.in_words, cache=cache)
    rows = []
    for rank, (row, query) in enumerate(zip(choice.rows, choice.queries, strict=True), 1):
        each, score = pool.examples[row], choice.chosen[rank - 1].score
        line = [rank, cell(each.source), each.number, score, cell(query)]
        rows.append([*line, each.supervised, each.tokens, cell(each.text)])
    write_whole(path.with_name(path.name.removesuffix(SUFFIX) + ".csv"), csv_table(HEAD, rows))
    return selection
