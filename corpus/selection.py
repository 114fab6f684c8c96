"""Reads and writes selections: sources that list records of other sources, each with a score.

A method that chooses training data, such as LESS (arXiv 2402.04333), writes one:

    write_selection(Path("best.selection.json"), {"math": math}, [Chosen("math", 17, 0.93), …])

and a plan names it like any other source: `sources: {best: best.selection.json}`. The records stay
in their sources. A digest of each source tells when it has changed since.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from corpus.errors import CorpusError
from corpus.reach import ANYWHERE, Reach
from corpus.records import Record, digest
from corpus.source import Source, load_source, used_records

SUFFIX = ".selection.json"
"""How the name of a selection ends."""


class Chosen(NamedTuple):
    """One record of a selection."""

    source: str
    """Name of the source that it is from."""
    number: int
    """Its number among the records of the source that are used, from 0."""
    score: float
    """What the method gave it; higher is better."""


class Selection(NamedTuple):
    """What a selection holds, in the order of its file."""

    chosen: tuple[Chosen, ...]
    records: tuple[Record, ...]
    """The record of each."""
    digest: str
    """SHA-256 of the records; the same records in the same order have the same one."""


def load(source: Source, cache: Path | None = None, *, reach: Reach = ANYWHERE) -> list[Record]:
    """Loads the share of a source's records that is used; the source may be a selection.

    The labels of a selection's records are those of their own sources.

    Args:
        source: what to read.
        cache: as in corpus.source.load_source.
        reach: which files may be read, those that a selection names among them.

    Raises:
        CorpusError: as corpus.source.load_source, or as read_selection.
    """
    path = Path(source.path).expanduser()
    if not path.name.endswith(SUFFIX) or reach.refusal(path) or not path.is_file():
        return load_source(source, cache, reach=reach)
    return used_records(source, list(read_selection(path, cache, reach=reach).records))


def write_selection(
    path: Path,
    sources: Mapping[str, Source],
    chosen: Iterable[Chosen],
    *,
    about: str = "",
    cache: Path | None = None,
) -> Selection:
    """Writes a selection, which read_selection reads back the same.

    Args:
        path: the file; its name ends in SUFFIX. Paths of sources are written relative to it.
        sources: name -> source. Those of which nothing is chosen are left out.
        chosen: the records in the order in which a reader gets them.
        about: what chose them, for people.
        cache: as in corpus.source.load_source.

    Raises:
        CorpusError: the name ends otherwise, nothing is chosen, a source is unknown or is a
            selection, a number is outside its source or given twice, or a score is no finite
            number.
    """
    if not path.name.endswith(SUFFIX):
        raise CorpusError(f"{path}: the name of a selection ends in {SUFFIX}. Give such a name.")
    listed = [Chosen(*each) for each in chosen]
    named = {each.source for each in listed}
    if missing := sorted(named - sources.keys()):
        raise CorpusError(f"{path}: no source is called {missing[0]}. Give it as a source.")
    loaded = {name: load_source(sources[name], cache) for name in sources if name in named}
    records = _records(path, listed, loaded)
    document = {
        "about": about,
        "digest": digest(records),
        "sources": {
            name: _source_fields(sources[name], path.parent)
            | {"records": len(loaded[name]), "digest": digest(loaded[name])}
            for name in loaded
        },
        "chosen": [list(each) for each in listed],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())
    return Selection(tuple(listed), tuple(records), str(document["digest"]))


def read_selection(path: Path, cache: Path | None = None, *, reach: Reach = ANYWHERE) -> Selection:
    """Reads a selection and the records that it names.

    Args:
        path: the file.
        cache: as in corpus.source.load_source.
        reach: which files may be read.

    Raises:
        CorpusError: the file is no selection, or a source has other records than it had, is out of
            reach, or cannot be read.
    """
    document = _document(path)
    loaded = {}
    for name, written in document["sources"].items():
        source = _source(path, name, written, reach)
        records = load_source(source, cache, reach=reach)
        if (len(records), digest(records)) != (written.get("records"), written.get("digest")):
            raise CorpusError(
                f"{path}, source {name}: {source.path} holds other records than when the selection "
                "was made, so its numbers name other records. Make the selection again."
            )
        loaded[name] = records
    listed = [_chosen(path, number, each) for number, each in enumerate(document["chosen"])]
    records = _records(path, listed, loaded)
    return Selection(tuple(listed), tuple(records), digest(records))


def _records(path: Path, listed: list[Chosen], loaded: Mapping[str, list[Record]]) -> list[Record]:
    """Returns the records of a selection."""
    if not listed:
        raise CorpusError(f"{path}: nothing is chosen. Choose at least one record.")
    seen = set()
    for number, each in enumerate(listed):
        where = f"{path}, chosen[{number}]"
        if each.source not in loaded:
            raise CorpusError(f"{where}: no source is called {each.source!r}. Add it to sources.")
        size = len(loaded[each.source])
        if isinstance(each.number, bool) or not 0 <= each.number < size:
            raise CorpusError(
                f"{where}: {each.source} has records 0 to {size - 1}, and {each.number!r} is "
                "chosen. Correct it."
            )
        if isinstance(each.score, bool) or not math.isfinite(each.score):
            raise CorpusError(f"{where}: the score is {each.score!r}, expected a finite number.")
        if each[:2] in seen:
            raise CorpusError(f"{where}: record {each.number} of {each.source} is chosen twice.")
        seen.add(each[:2])
    return [loaded[each.source][each.number] for each in listed]


def _document(path: Path) -> dict[str, Any]:
    """Reads the file and checks its outline."""
    advice = "Write it with corpus.selection.write_selection."
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: is no selection that can be read ({error}). {advice}") from None
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("sources"), dict)
        or not isinstance(document.get("chosen"), list)
        or not all(isinstance(each, dict) for each in document["sources"].values())
    ):
        raise CorpusError(f'{path}: is no selection; expected "sources" and "chosen". {advice}')
    return document


def _chosen(path: Path, number: int, each: Any) -> Chosen:
    """Reads one entry of `chosen`."""
    if (
        not isinstance(each, list)
        or len(each) != 3
        or not isinstance(each[0], str)
        or not isinstance(each[1], int)
        or not isinstance(each[2], int | float)
    ):
        raise CorpusError(
            f"{path}, chosen[{number}]: expected [source, number, score], got {str(each)[:40]}."
        )
    return Chosen(*each)


def _source_fields(source: Source, home: Path) -> dict[str, Any]:
    """Returns the fields of a source that differ from their defaults; see `_source`."""
    if source.path.endswith(SUFFIX):
        raise CorpusError(
            f"source {source.name}: {source.path} is a selection. Choose from its own sources."
        )
    default = Source(source.name, source.path)
    written = {
        field.name: getattr(source, field.name)
        for field in fields(source)
        if field.name not in ("name", "path")
        and getattr(source, field.name) != getattr(default, field.name)
    }
    if "share" in written:
        written["share"] = str(Fraction(written["share"]))
    local = Path(source.path).expanduser()
    here = Path(os.path.relpath(local, home)).as_posix() if local.exists() else source.path
    return {"path": here, **written}


def _source(path: Path, name: str, written: Mapping[str, Any], reach: Reach) -> Source:
    """Reads one source of a selection; its path is looked up from the selection's folder."""
    given = {key: value for key, value in written.items() if key not in ("records", "digest")}
    known = {field.name for field in fields(Source)} - {"name"}
    if not isinstance(given.get("path"), str) or given.keys() - known:
        raise CorpusError(
            f"{path}, source {name}: expected a path and {', '.join(sorted(known - {'path'}))}, "
            f"got {', '.join(given) or 'nothing'}."
        )
    if given["path"].endswith(SUFFIX):
        raise CorpusError(f"{path}, source {name}: is a selection itself. Name its own sources.")
    beside = path.parent / given["path"]
    # A name on the hub is no file here. With a limited reach nothing is looked at before it is
    # known to be inside, which load_source checks.
    local = reach.roots is not None or beside.exists()
    try:
        return Source(name, **given | {"path": str(beside) if local else given["path"]})
    except (CorpusError, TypeError) as error:
        raise CorpusError(f"{path}, source {name}: {error}") from None
