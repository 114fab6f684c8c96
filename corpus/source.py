"""Loads records from a source: a JSONL file, a folder, or a dataset of the hub by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from corpus.errors import CorpusError, raise_all
from corpus.hub_layout import check_card, check_files
from corpus.jsonl import read_records
from corpus.reach import ANYWHERE, Reach, check_plain_name
from corpus.records import LABEL, MEDIA, Example, Record, layout, record
from corpus.subsets import nested, share_of

LAYOUTS = '"prompt" and "completion", "messages", "conversations", or "instruction" and "output"'

# What the hub allows in a name. A name without an organisation is not asked for: `datasets` would
# take some of them, such as text, for a reader of the files in the working directory.
_NAME = re.compile(r"(?!.*(\.\.|--))\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A named dataset and how much of it is used.

    Attributes:
        name: how plans, tables and groups call it.
        path: a JSONL file; a selection (corpus.selection); a folder that holds <split>.jsonl; a
            folder in the layout of hub datasets; or the name of a hub dataset, "org/name". A local
            path wins.
        split: which part of a folder or a hub dataset; a plain name, no path.
        revision: branch, tag or commit of a hub dataset; "" is its main branch.
        config: configuration of a hub dataset, such as "main"; "" is its default. A plain name.
        label_field: the field that names the task of a record. A record without it gets the
            source's name.
        share: how much of the dataset is used, 0 < share <= 1, as nested subsets; see
            corpus.subsets. "1/4" and 0.25 become a Fraction.
        seed: decides which records a share below 1 takes.
        plain: whether instructions are written as "Instruction: …" also where the base has a chat
            template.

    Raises:
        CorpusError: an empty name, path or split; a split, configuration or revision that is a
            path; or a share that is not above 0 and at most 1.
    """

    name: str
    path: str
    split: str = "train"
    revision: str = ""
    config: str = ""
    label_field: str = LABEL
    share: Fraction = Fraction(1)
    seed: int = 0
    plain: bool = False

    def __post_init__(self) -> None:
        for field in ("name", "path", "split"):
            if not str(getattr(self, field)).strip():
                raise CorpusError(f'a source needs a {field}, got "". Give it one.')
        for field in ("split", "config", "revision"):
            # Each becomes a part of a path, here or in the hub's cache, and an absolute one would
            # replace the path: Path("data") / "/etc/x.jsonl" is /etc/x.jsonl.
            check_plain_name(f"source {self.name}: {field}", getattr(self, field), field)
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


def load_source(
    source: Source, cache: Path | None = None, *, reach: Reach = ANYWHERE
) -> list[Record]:
    """Loads the share of a source's records that is used; corpus.selection.load reads selections.

    The records are in the source's order.

    A hub dataset is read by the `datasets` library, which downloads into its own cache. The code of
    a dataset is never run. If the hub cannot be reached, the library tries for 23 s before it gives
    up; HF_HUB_OFFLINE=1 avoids that. Columns are recognised as the fields of a line are; see
    corpus.records.

    Args:
        source: what to read.
        cache: where `datasets` keeps what it downloads and converts; None for its own folder
            (HF_DATASETS_CACHE).
        reach: which files may be read, and whether the hub may be asked.

    Raises:
        CorpusError: there is nothing at the path, or it is out of reach; the split or configuration
            does not exist, the columns fit no layout, a record is malformed, there is no network,
            or no record is left.
    """
    path = Path(source.path).expanduser()
    # Before anything is looked at, so that the message does not tell what exists out of reach.
    if message := reach.refusal(path):
        raise CorpusError(f"source {source.name}: {message}")
    if path.is_file():
        records = read_records(path, source.label_field)
    elif (path / f"{source.split}.jsonl").is_file():
        records = read_records(path / f"{source.split}.jsonl", source.label_field)
    else:
        _refuse_other_files(source, path)
        if not (path.is_dir() or reach.hub):
            raise CorpusError(
                f"source {source.name}: {source.path} is no file or folder here. Nothing is "
                "fetched from the hub for a page; download the dataset first, or use the command "
                "line."
            )
        records = _read_with_datasets(source, cache, reach)
    # A misspelt field would otherwise put all records into one group without a word.
    if source.label_field not in ("", LABEL) and not any(item.label for item in records):
        raise CorpusError(
            f"source {source.name}: none of the {len(records):,} records of {source.path} has the "
            f'field "{source.label_field}". Correct label_field.'
        )
    return used_records(source, records)


def used_records(source: Source, records: Sequence[Record]) -> list[Record]:
    """Returns the share of a source's records that is used, in their order, each with a label.

    Raises:
        CorpusError: no record is left.
    """
    # Sorted, so that a share of 1 is the file itself.
    indices = sorted(nested(len(records), source.share, source.seed))
    if not indices:
        raise CorpusError(
            f"source {source.name}: a share of {source.share} of {len(records):,} records is none. "
            f"Give a share of at least 1/{len(records)}."
        )
    used = (records[index] for index in indices)
    used = (item if item.label else replace(item, label=source.name) for item in used)
    return [_without_instruction(item) if source.plain else item for item in used]


def _without_instruction(record: Record) -> Record:
    return replace(record, instruction=None) if isinstance(record, Example) else record


def _refuse_other_files(source: Source, path: Path) -> None:
    """Refuses paths that cannot be hub datasets either, before the hub is asked."""
    if path.is_dir():
        wanted = f"{source.split}.jsonl"
        if beside := sorted(file.stem for file in path.glob("*.jsonl")):
            raise CorpusError(
                f"source {source.name}: {path} has no {wanted}; it holds {', '.join(beside)}. Give "
                "one of them as split, or the path of a file."
            )
        if below := sorted(file.parent.name for file in path.glob(f"*/{wanted}")):
            raise CorpusError(
                f"source {source.name}: {path} has no {wanted}, its folders {', '.join(below)} "
                f"have. Give one of them, such as {path / below[0]}; several datasets are several "
                "sources."
            )
    elif not _NAME.fullmatch(source.path) or path.suffix in (
        ".jsonl",
        ".json",
        ".parquet",
        ".csv",
        ".txt",
    ):
        at = " Write a revision in its own field." if "@" in source.path else ""
        raise CorpusError(
            f"source {source.name}: {source.path} is no file or folder here, and no name of a hub "
            f"dataset, which is org/name. Correct the path.{at}"
        )


def _read_with_datasets(source: Source, cache: Path | None, reach: Reach) -> list[Record]:
    """Reads all records of a split by the `datasets` library."""
    table = _table(source, cache, reach)
    where = f"{source.path} ({source.split})"
    columns = table.column_names
    if layout(dict.fromkeys(columns)) is None:
        raise CorpusError(
            f"source {source.name}: {where} has the columns {', '.join(columns)}. Expected "
            f"{LAYOUTS}. Write the records into a JSONL file with one of these, and give that."
        )
    label = table.features.get(source.label_field)
    # A ClassLabel column holds numbers and knows their names.
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
        "system",
        "history",
        "tools",
        source.label_field,
    }
    if {"choices", "answer"} <= set(columns):
        used |= {"choices", "answer"}
    media = {name: _filled(table, name) for name in MEDIA if name in columns}
    table = table.select_columns([name for name in columns if name in used])
    records, faults = [], []
    # The library refuses a split without rows, so there is at least one record.
    for number, row in enumerate(table):
        if names is not None and row[source.label_field] is not None:
            row[source.label_field] = names(row[source.label_field])
        row |= {name: filled[number] for name, filled in media.items()}
        try:
            records.append(record(row, f"{where}, row {number}", source.label_field))
        except CorpusError as error:
            faults.append(str(error))
    raise_all(faults, table.num_rows, where)
    return records


def _filled(table: Any, column: str) -> list[bool]:
    """Returns which rows of a column hold anything, without decoding pictures or sound."""
    import pyarrow.compute as pc

    values = table.data.column(column)
    filled = pc.is_valid(values)
    if str(values.type).startswith(("list", "large_list")):
        filled = pc.and_(filled, pc.greater(pc.fill_null(pc.list_value_length(values), 0), 0))
    return [bool(each) for each in filled.to_pylist()]


def _table(source: Source, cache: Path | None, reach: Reach) -> Any:
    """Returns the split as a datasets.Dataset."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    folder = Path(source.path).expanduser()
    here = folder if folder.is_dir() else None
    try:
        if here is not None:
            check_card(here)
        # Not load_dataset: it would read the files before they can be checked.
        builder = load_dataset_builder(
            # Absolute, because the library takes a folder of a reader's name, text, for the reader.
            source.path if here is None else str(here.resolve()),
            source.config or None,
            revision=source.revision or None,
            cache_dir=None if cache is None else str(cache),
        )
        check_files(builder, here, reach)
        builder.download_and_prepare()
        return builder.as_dataset(split=source.split)
    except CorpusError as error:
        raise CorpusError(f"source {source.name}: {error}") from None
    # OSError covers ConnectionError, and ValueError covers pyarrow's errors. A dataset that is a
    # script raises a bare RuntimeError.
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"source {source.name}: {_explain(error, source)}") from None


def _explain(error: Exception, source: Source) -> str:
    """Says why a dataset cannot be read, and what to do."""
    from datasets.exceptions import DatasetNotFoundError

    reason = str(error.__cause__ or error).split("\n")[0].rstrip(".!")
    absent = f"{source.path} is no file or folder here"
    if isinstance(error, ConnectionError):
        if "OfflineModeIsEnabled" in str(error):
            return (
                f"{absent} and not in the cache, and the network is switched off (HF_HUB_OFFLINE). "
                "Download it once with the network on, or correct the path."
            )
        return (
            f"{absent}, and the hub cannot be reached ({reason}). "
            "Check the network, or correct the path."
        )
    if isinstance(error, DatasetNotFoundError):
        return (
            f"{absent}, and the hub says: {reason}. Check the name; if the dataset is private or "
            "gated, log in with `hf auth login` or set HF_TOKEN."
        )
    return (
        f"{source.path} cannot be read as split {source.split!r}"
        + (f" of configuration {source.config!r}" if source.config else "")
        + f": {reason}. Give a split and configuration that it has, as JSONL or parquet."
    )
