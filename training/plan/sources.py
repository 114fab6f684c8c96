"""Reads and writes the sources of a plan: each name has a path, or keys and values."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from corpus import CorpusError
from corpus.reach import ANYWHERE, Reach
from corpus.source import Source
from plumbing.strict_yaml import Keys
from plumbing.suggest import nearest
from training.plan.faults import Faults

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""The form of a source's name, which becomes part of a folder's name."""

KEYS = tuple(each.name for each in dataclasses.fields(Source) if each.name != "name")
SPLITS = {"sources": "train", "validation": "validation"}
"""Section of a plan -> the default split of its sources."""


@dataclass(frozen=True)
class Lookup:
    """Where the paths of a plan are looked up, and which of them may be read.

    Attributes:
        home: folder of the plan.
        reach: what may be read. A path outside is a fault of the plan, before it is looked at.
    """

    home: Path | None = None
    reach: Reach = ANYWHERE

    def find(self, path: str) -> str:
        """Looks a path up from the working directory, then from the plan's folder.

        A path that exists in neither is returned unchanged: it may be the name of a dataset on the
        hub.
        """
        if path and self.home is not None and not Path(path).exists():
            beside = self.home / path
            return beside.as_posix() if beside.exists() else path
        return path

    def check(self, path: str, keys: Keys, faults: Faults) -> str:
        """Returns the path as `find` does, and reports a fault if it may not be read."""
        found = self.find(path)
        # As it is written and with ~ replaced: readers differ in that.
        for written in (Path(found), Path(found).expanduser()) if path else ():
            if message := self.reach.refusal(written):
                faults.add(keys, message)
                break
        return found


NOWHERE_ELSE = Lookup()
"""Paths are looked up from the working directory, and any of them may be read."""


def sources(raw: Any, section: str, lookup: Lookup, faults: Faults) -> dict[str, Source]:
    """Reads the sources of a section.

    Args:
        raw: the value of the section in the YAML.
        section: "sources" or "validation".
        lookup: where relative paths are looked up, and which may be read.
        faults: gets what is wrong; a source with a fault is left out of the result.
    """
    keys: Keys = (section,)
    if not isinstance(raw, dict) or (section == "sources" and not raw):
        faults.add(
            keys,
            f"is {raw!r}, expected names with their paths, such as {{math: data/math.jsonl}}.",
        )
        return {}
    read = {}
    for name, value in raw.items():
        if not NAME.fullmatch(name):
            faults.add(
                (*keys, name),
                "a name is made of letters, digits, - and _: it becomes part of a folder's name.",
            )
        elif new := source(name, value, (*keys, name), lookup, faults, SPLITS[section]):
            read[name] = new
    return read


def source(
    name: str, raw: Any, keys: Keys, lookup: Lookup, faults: Faults, split: str = "train"
) -> Source | None:
    """Reads one source from a path, or from keys and values; None if it has faults.

    Args:
        name: name of the source.
        raw: its value in the YAML.
        keys: the keys of this value, for messages.
        lookup: where a relative path is looked up, and which may be read.
        faults: gets what is wrong.
        split: the default split.
    """
    fields = {"path": raw} if isinstance(raw, str) else raw
    if not isinstance(fields, dict):
        faults.add(keys, f"is {raw!r}, expected a path, or keys and values: {', '.join(KEYS)}.")
        return None
    kept: dict[str, Any] = {}
    for key, value in fields.items():
        if key not in KEYS:
            faults.add((*keys, key), f"unknown key; {nearest(key, list(KEYS))}")
        # type(), because isinstance takes true for a whole number.
        elif key == "seed" and type(value) is not int:
            faults.add((*keys, key), f"is {value!r}, expected a whole number.")
        elif key == "plain" and not isinstance(value, bool):
            faults.add((*keys, key), f"is {value!r}, expected true or false.")
        elif key not in ("seed", "share", "plain") and not isinstance(value, str):
            faults.add((*keys, key), f"is {value!r}, expected a text; put it in quotes.")
        else:
            kept[key] = value
    if "path" not in kept:
        # A path of the wrong type is already reported.
        if "path" not in fields:
            faults.add(
                keys,
                "path is missing: a JSONL file, a folder, or the name of a dataset on the hub.",
            )
        return None
    try:
        read = Source(name, **{"split": split} | kept)
        return dataclasses.replace(read, path=lookup.check(read.path, keys, faults))
    except CorpusError as error:
        faults.add(keys, str(error))
        return None


def plain_value(value: Any) -> Any:
    """Returns a value as YAML and JSON can hold it.

    A share becomes 1 or "1/4", a tuple becomes a list, and a source becomes its path or its keys.
    """
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else str(value)
    if isinstance(value, Source):
        return source_yaml(value)
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    return [plain_value(item) for item in value] if isinstance(value, tuple | list) else value


def source_yaml(source: Source, split: str = "train") -> Any:
    """Returns the shortest YAML value that the function `source` reads as an equal source.

    Args:
        source: any source.
        split: the split that a reader assumes.

    Returns:
        The path alone if everything else has its default; otherwise the path and what differs.
    """
    default = Source(source.name, source.path, split=split)
    fields = {
        key: plain_value(getattr(source, key))
        for key in KEYS
        if getattr(source, key) != getattr(default, key)
    }
    return {"path": source.path, **fields} if fields else source.path
