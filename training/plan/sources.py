"""The sources of a plan, read and written: a name with a path, or with keys and values."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from corpus import CorpusError
from corpus.source import Source
from plumbing.strict_yaml import Keys
from plumbing.suggest import nearest
from training.plan.faults import Faults

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""A source's name becomes part of a folder's."""

KEYS = tuple(each.name for each in dataclasses.fields(Source) if each.name != "name")
SPLITS = {"sources": "train", "validation": "validation"}
"""Section of a plan -> the split that is meant when none is given."""


def sources(given: Any, section: str, home: Path | None, faults: Faults) -> dict[str, Source]:
    """The sources of a section; what is wrong goes to `faults` and is left out."""
    place: Keys = (section,)
    if not isinstance(given, dict) or (section == "sources" and not given):
        faults.add(
            place,
            f"is {given!r}, expected names with their paths, such as {{math: data/math.jsonl}}.",
        )
        return {}
    read = {}
    for name, value in given.items():
        if not NAME.fullmatch(name):
            faults.add(
                (*place, name),
                "a name is made of letters, digits, - and _: it becomes part of a folder's.",
            )
        elif one := source(name, value, (*place, name), home, faults, SPLITS[section]):
            read[name] = one
    return read


def source(
    name: str, given: Any, place: Keys, home: Path | None, faults: Faults, split: str = "train"
) -> Source | None:
    """One source: a path, or keys and values; None when it cannot be."""
    fields = {"path": given} if isinstance(given, str) else given
    if not isinstance(fields, dict):
        faults.add(place, f"is {given!r}, expected a path, or keys and values: {', '.join(KEYS)}.")
        return None
    kept: dict[str, Any] = {}
    for key, value in fields.items():
        if key not in KEYS:
            faults.add((*place, key), f"unknown key; {nearest(key, list(KEYS))}")
        elif key == "seed" and type(value) is not int:
            faults.add((*place, key), f"is {value!r}, expected a whole number.")
        elif key not in ("seed", "share") and not isinstance(value, str):
            faults.add((*place, key), f"is {value!r}, expected a text; put it in quotes.")
        else:
            kept[key] = value
    if "path" not in kept:
        if "path" not in fields:
            faults.add(
                place,
                "path is missing: a JSONL file, a folder, or the name of a dataset on the hub.",
            )
        return None
    try:
        return Source(name, **{"split": split} | kept | {"path": found_from(kept["path"], home)})
    except CorpusError as error:
        faults.add(place, str(error))
        return None


def found_from(path: str, home: Path | None) -> str:
    """A path that exists from the working directory, else from the plan's folder, else as it is: a hub's name."""
    if path and home is not None and not Path(path).exists() and (home / path).exists():
        return (home / path).as_posix()
    return path


def plain_value(value: Any) -> Any:
    """A value as YAML and JSON hold it: shares as 1 or "1/4", lists, and a source as its path or its keys."""
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else str(value)
    if isinstance(value, Source):
        return source_yaml(value)
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    return [plain_value(item) for item in value] if isinstance(value, tuple | list) else value


def source_yaml(source: Source, split: str = "train") -> Any:
    """What `source` reads back as the same: the path alone, where nothing else differs from what is meant without it."""
    usual = Source(source.name, source.path, split=split)
    fields = {
        key: plain_value(getattr(source, key))
        for key in KEYS
        if getattr(source, key) != getattr(usual, key)
    }
    return {"path": source.path, **fields} if fields else source.path
