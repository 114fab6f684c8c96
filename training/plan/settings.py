"""Reads the settings of a plan strictly: the fields of a Stage that are not data, and `group_by`.

epochs: 3
rate: 2e-5
lora: {rank: 16, alpha: 32}                                    # or lora: 16
replay: [general]                                              # rehearsed, with replay_share
group_by: {metric: length, bins: 10}                           # CommonIT; or metric: task
group_by: {metric: anchors, anchors: mmlu_dev.jsonl, k: 1}     # the task of the nearest anchor
group_by: {metric: kmeans, count: 8, encoder: tfidf, dimensions: 64}
group_weights: {sums: 2, chat: 1}                              # by the names of the groups
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from plumbing.strict_yaml import Keys
from plumbing.suggest import nearest
from training.adapter import Lora
from training.plan.faults import Faults
from training.plan.schedule_reader import ScheduleReader
from training.plan.sources import NOWHERE_ELSE, Lookup, source
from training.stage import Stage

DATA = ("base", "base_name", "adapter", "examples", "validation", "groups")
"""Fields of a Stage that a plan fills in from its sources and its steps."""

SETTINGS = tuple(field.name for field in dataclasses.fields(Stage) if field.name not in DATA)
"""Fields of a Stage that a plan may set."""

EMBEDDED = {"encoder": str, "model": str, "dimensions": int, "layer": int, "seed": int}
"""Keys of `group_by` that choose an encoder of texts -> their types; see training.plan.grouping."""

METRICS: dict[str, dict[str, Any]] = {
    "task": {},
    "length": {"bins": int, "edges": tuple[int, ...]},
    "anchors": {"anchors": Any, "k": int, **EMBEDDED},
    "kmeans": {"count": int, **EMBEDDED},
}
"""Metric of `group_by` -> its keys and their types."""

NEEDED = {"anchors": ("anchors",), "kmeans": ("count",)}
"""Metric of `group_by` -> its keys without a default."""

ANCHORS = "anchors"
"""Name of the source of the anchors, and so the label of every anchor that has none."""

ENCODERS = ("tfidf", "sentence_transformers", "states")
"""The encoders of texts; the first is the default."""


def read(
    raw: Any, keys: Keys, reader: ScheduleReader, lookup: Lookup = NOWHERE_ELSE
) -> dict[str, Any]:
    """Reads settings as a mapping of plain values.

    Args:
        raw: the value in the YAML; None for no settings.
        keys: the keys of this value, for messages.
        reader: reads names of sources and numbers. Its `faults` get what is wrong; a setting with
            a fault is left out of the result.
        lookup: where relative paths are looked up, and which may be read.
    """
    faults = reader.faults
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        faults.add(keys, f"is {raw!r}, expected keys and values, such as {{epochs: 3}}.")
        return {}
    hints, known = get_type_hints(Stage), [*SETTINGS, "group_by"]
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        at_key = (*keys, key)
        if key not in known:
            faults.add(at_key, f"unknown setting; {nearest(key, known)}")
        elif key == "lora":
            settings[key] = _read_lora(value, at_key, faults)
        elif key == "group_by":
            settings[key] = _read_group_by(value, at_key, faults, lookup)
        elif key == "group_weights":
            settings[key] = value if value is None else _read_weights(value, at_key, reader)
        elif key == "replay":
            settings[key] = reader.names(value, at_key)
        elif _fits(value, hints[key]):
            # A tuple, as in the Stage that it is for, which is a frozen value.
            settings[key] = tuple(value) if isinstance(value, list) else value
        else:
            faults.add(at_key, f"is {value!r}, expected {_type_in_words(hints[key])}.")
    return settings


def stage_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a Stage that need no data: all settings but groups and replay."""
    fields = {
        key: value
        for key, value in settings.items()
        if key not in ("group_by", "group_weights", "replay")
    }
    if fields.get("lora") is not None:
        fields["lora"] = Lora(**fields["lora"])
    return fields


def _read_lora(raw: Any, keys: Keys, faults: Faults) -> dict[str, Any] | None:
    """Reads the fields of a Lora; a number is its rank. None if the value is null or has faults."""
    if raw is None:
        return None
    if isinstance(raw, int) and not isinstance(raw, bool):
        raw = {"rank": raw}
    read = _read_typed(raw, keys, faults, get_type_hints(Lora), ("rank",))
    return read or None


def _read_group_by(raw: Any, keys: Keys, faults: Faults, lookup: Lookup) -> dict[str, Any] | None:
    """Reads `group_by`; a text is its metric. None if it is null or its metric is unknown."""
    if raw is None:
        return None
    if isinstance(raw, str):
        raw = {"metric": raw}
    metric = raw.get("metric") if isinstance(raw, dict) else None
    if metric not in METRICS:
        faults.add(keys, f"is {raw!r}, expected {{metric: …}} with one of {', '.join(METRICS)}.")
        return None
    hints = {"metric": str, **METRICS[metric]}
    read = _read_typed(raw, keys, faults, hints, NEEDED.get(metric, ()))
    # Its type is Any, so the raw value passed; a source has a reader of its own.
    if "anchors" in read:
        read["anchors"] = source(ANCHORS, raw["anchors"], (*keys, "anchors"), lookup, faults)
    if "model" in read:
        read["model"] = lookup.check(read["model"], (*keys, "model"), faults)
    if "bins" in read and "edges" in read:
        faults.add(keys, "bins and edges are both given. Keep one of the two.")
    if (encoder := read.get("encoder", ENCODERS[0])) not in ENCODERS:
        faults.add((*keys, "encoder"), f"is {encoder!r}; {nearest(encoder, list(ENCODERS))}")
    if encoder == "sentence_transformers" and "model" not in read:
        faults.add(keys, "sentence_transformers needs model: a folder, or a name on the hub.")
    return read


def _read_weights(raw: Any, keys: Keys, reader: ScheduleReader) -> dict[str, float]:
    """Reads `group_weights`: name of a group -> its weight, 0 or more."""
    if not isinstance(raw, dict) or not raw:
        reader.faults.add(
            keys,
            f"is {raw!r}, expected groups with their weights, such as {{sums: 2, chat: 1}}.",
        )
        return {}
    return {str(name): float(reader.share(weight, (*keys, name))) for name, weight in raw.items()}


def _read_typed(
    raw: Any, keys: Keys, faults: Faults, hints: Mapping[str, Any], needed: tuple[str, ...]
) -> dict[str, Any]:
    """Reads keys whose types are `hints`; keys with faults are left out of the result."""
    if not isinstance(raw, dict):
        faults.add(keys, f"is {raw!r}, expected keys and values: {', '.join(hints)}.")
        return {}
    read = {}
    for key, value in raw.items():
        if key not in hints:
            faults.add((*keys, key), f"unknown key; {nearest(key, list(hints))}")
        elif not _fits(value, hints[key]):
            faults.add((*keys, key), f"is {value!r}, expected {_type_in_words(hints[key])}.")
        else:
            read[key] = tuple(value) if isinstance(value, list) else value
    for key in needed:
        # An unknown key is probably a misspelt needed one, and its fault already suggests it.
        if key not in raw and raw.keys() <= hints.keys():
            faults.add(keys, f"needs {key}.")
    return read


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value read from YAML has a type.

    A list is accepted as a tuple, and a whole number as any number.
    """
    if hint is Any:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Mapping:
        return isinstance(value, dict) and all(
            _fits(item, get_args(hint)[1]) for item in value.values()
        )
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
    # bool is a subclass of int, so true and false would pass as numbers.
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _type_in_words(hint: Any) -> str:
    """Describes a type for the author of a plan: "a whole number or null"."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_in_words(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)[:-1])) + f" or {get_args(hint)[-1]}"
    if get_origin(hint) is Mapping:
        return f"names with their values, each {_type_in_words(get_args(hint)[1])}"
    if get_origin(hint) is tuple:
        return "a list, each " + _type_in_words(get_args(hint)[0])
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return names[hint]
