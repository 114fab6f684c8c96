"""A Source is where records come from: a JSONL file, a folder, or a dataset of the hub by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from corpus.errors import CorpusError
from corpus.jsonl import read_records
from corpus.records import LABEL, Record, layout, record
from corpus.subsets import nested, share_of

LAYOUTS = '"prompt" and "completion", "messages", "conversations", or "instruction" and "output"'

# What the hub allows in a name; the organisation is missing on old datasets only.
_NAME = re.compile(r"(?!.*(\.\.|--))\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A named dataset and how much of it is used.

    Attributes:
        name: how plans, tables and groups call it.
        path: a JSONL file; a folder that holds <split>.jsonl; a folder as the hub lays datasets out; or the hub's name of a
            dataset, "org/name" or "name", which is looked up only where nothing here has that path.
        split: which part of a folder or a hub dataset.
        revision: branch, tag or commit of a hub dataset; "" is its main branch.
        config: configuration of a hub dataset, such as "main"; "" is its default.
        label_field: the field that names the task of a record. A record without it gets the source's name.
        share: how much of it is used, 0 < share <= 1: nested subsets, see corpus.subsets. "1/4" and 0.25 are turned into a
            Fraction.
        seed: which records a share below 1 takes.
    """

    name: str
    path: str
    split: str = "train"
    revision: str = ""
    config: str = ""
    label_field: str = LABEL
    share: Fraction = Fraction(1)
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("name", "path", "split"):
            if not str(getattr(self, field)).strip():
                raise CorpusError(f'a source needs a {field}, got "". Give it one.')
        object.__setattr__(self, "path", str(self.path))
        try:
            share = share_of(self.share)
        except CorpusError as error:
            raise CorpusError(f"source {self.name}: {error}") from None
        if not share:
            raise CorpusError(
                f"source {self.name}: a share of 0 leaves no records. Leave the source out instead."
            )
        object.__setattr__(self, "share", share)


def load(source: Source, cache: Path | None = None) -> list[Record]:
    """The records of a source, in its order, as far as its share goes.

    A hub dataset is read by the `datasets` library, which downloads into its own cache. Code of a dataset is never
    run. Where the hub cannot be reached it tries for 23 s before it gives up; HF_HUB_OFFLINE=1 spares that. Its columns are told apart as the fields of a line are: see corpus.records.

    Args:
        source: what to read.
        cache: where `datasets` keeps what it downloads and converts; its own place (HF_DATASETS_CACHE) if not given.

    Raises:
        CorpusError: nothing there, a split or configuration that does not exist, columns that fit no layout, a malformed
            record, no network, or a share of which no record is left.
    """
    place = Path(source.path).expanduser()
    if place.is_file():
        found = read_records(place, source.label_field)
    elif (place / f"{source.split}.jsonl").is_file():
        found = read_records(place / f"{source.split}.jsonl", source.label_field)
    else:
        _refuse_other_files(source, place)
        found = _rows(source, cache)
    if source.label_field not in ("", LABEL) and not any(item.label for item in found):
        raise CorpusError(
            f"source {source.name}: none of the {len(found):,} records of {source.path} has the field "
            f'"{source.label_field}". Correct label_field.'
        )
    taken = sorted(nested(len(found), source.share, source.seed))
    if not taken:
        raise CorpusError(
            f"source {source.name}: a share of {source.share} of {len(found):,} records is none. Give a share of at least "
            f"1/{len(found)}."
        )
    chosen = (found[index] for index in taken)
    return [item if item.label else replace(item, label=source.name) for item in chosen]


def _refuse_other_files(source: Source, place: Path) -> None:
    """What is no dataset of the hub either, told before anything asks the hub."""
    if place.is_dir():
        wanted = f"{source.split}.jsonl"
        if beside := sorted(path.stem for path in place.glob("*.jsonl")):
            raise CorpusError(
                f"source {source.name}: {place} has no {wanted}; it holds {', '.join(beside)}. Give one of them as split, or "
                "the path of a file."
            )
        if below := sorted(path.parent.name for path in place.glob(f"*/{wanted}")):
            raise CorpusError(
                f"source {source.name}: {place} has no {wanted}, its folders {', '.join(below)} have. Give one of them, "
                f"such as {place / below[0]}; several datasets are several sources."
            )
    elif not _NAME.fullmatch(source.path) or place.suffix in (
        ".jsonl",
        ".json",
        ".parquet",
        ".csv",
        ".txt",
    ):
        at = " Write a revision in its own field." if "@" in source.path else ""
        raise CorpusError(
            f"source {source.name}: {source.path} is no file or folder here, and no name of a hub dataset, which is "
            f"org/name. Correct the path.{at}"
        )


def _rows(source: Source, cache: Path | None) -> list[Record]:
    table = _table(source, cache)
    where = f"{source.path} ({source.split})"
    columns = table.column_names
    if layout(dict.fromkeys(columns)) is None:
        raise CorpusError(
            f"source {source.name}: {where} has the columns {', '.join(columns)}. Expected {LAYOUTS}. Write the "
            "records into a JSONL file with one of these, and give that."
        )
    label = table.features.get(source.label_field)
    names = getattr(label, "int2str", None)
    # Other columns may be pictures or sound, which reading would decode.
    used = {
        "prompt",
        "completion",
        "messages",
        "conversations",
        "instruction",
        "input",
        "output",
        source.label_field,
    }
    if {"choices", "answer"} <= set(columns):
        used |= {"choices", "answer"}
    table = table.select_columns([name for name in columns if name in used])
    found = []
    for number, row in enumerate(table):  # never empty: the library refuses a split without rows
        if names is not None and row[source.label_field] is not None:
            row[source.label_field] = names(row[source.label_field])
        found.append(record(row, f"{where}, row {number}", source.label_field))
    return found


def _table(source: Source, cache: Path | None) -> Any:
    """The split as a datasets.Dataset."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    here = Path(source.path).expanduser()
    try:
        return load_dataset(
            str(here) if here.is_dir() else source.path,
            source.config or None,
            split=source.split,
            revision=source.revision or None,
            cache_dir=None if cache is None else str(cache),
        )
    # ConnectionError is among the OSErrors, pyarrow's errors among the ValueErrors; scripts raise a bare RuntimeError.
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"source {source.name}: {_explain(error, source)}") from None


def _explain(error: Exception, source: Source) -> str:
    from datasets.exceptions import DatasetNotFoundError

    reason = str(error.__cause__ or error).split("\n")[0].rstrip(".!")
    absent = f"{source.path} is no file or folder here"
    if isinstance(error, ConnectionError):
        if "OfflineModeIsEnabled" in str(error):
            return (
                f"{absent} and not in the cache, and the network is switched off (HF_HUB_OFFLINE). Fetch it once with the "
                "network on, or correct the path."
            )
        return f"{absent}, and the hub cannot be reached ({reason}). Check the network, or correct the path."
    if isinstance(error, DatasetNotFoundError):
        return (
            f"{absent}, and the hub says: {reason}. Check the name; where it is private or gated, log in with "
            "`hf auth login` or set HF_TOKEN."
        )
    return (
        f"{source.path} cannot be read as split {source.split!r}"
        + (f" of configuration {source.config!r}" if source.config else "")
        + f": {reason}. Give a split and configuration that it has, as JSONL or parquet."
    )
