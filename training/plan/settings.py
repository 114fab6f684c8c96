"""The settings of a plan: the fields of a Stage that are not data, and `group_by`; read strictly, types checked.

epochs: 3
rate: 2e-5
lora: {rank: 16, alpha: 32}                                        or lora: 16
replay: [general]                                                  sources to rehearse, with replay_share
group_by: {metric: length, bins: 10}                               CommonIT; or metric: task
group_by: {metric: anchors, anchors: mmlu_dev.jsonl, k: 1}         each example gets its nearest anchor's task
group_by: {metric: kmeans, count: 8, encoder: tfidf, dimensions: 64}
group_weights: {sums: 2, chat: 1}                                  by the names of the groups
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from plumbing.strict_yaml import Keys
from plumbing.suggest import nearest
from training.plan.faults import Faults
from training.plan.schedule_kinds import Reader
from training.plan.sources import source
from training.stage import Lora, Stage

DATA = ("base", "base_name", "adapter", "examples", "validation", "groups")
"""Fields of a Stage that the plan fills in from its sources and its steps."""

SETTINGS = tuple(field.name for field in dataclasses.fields(Stage) if field.name not in DATA)

EMBEDDED = {"encoder": str, "model": str, "dimensions": int, "layer": int, "seed": int}
"""Keys of an encoder of texts; see training.plan.grouping."""

METRICS: dict[str, dict[str, Any]] = {
    "task": {},
    "length": {"bins": int, "edges": tuple[int, ...]},
    "anchors": {"anchors": Any, "k": int, **EMBEDDED},
    "kmeans": {"count": int, **EMBEDDED},
}
"""Metric of `group_by` -> its keys and their types."""

NEEDED = {"anchors": ("anchors",), "kmeans": ("count",)}
ANCHORS = "anchors"
"""Name of the source that anchors come from, and so the label of those that have none."""

ENCODERS = ("tfidf", "sentence_transformers", "states")


def read(given: Any, place: Keys, reader: Reader, home: Path | None = None) -> dict[str, Any]:
    """Settings as a mapping of plain values; what is wrong goes to `reader.faults` and is left out.

    Args:
        given: what the plan says.
        place: where it says so.
        reader: reads names of sources and numbers.
        home: the plan's folder.
    """
    faults = reader.faults
    if given is None:
        return {}
    if not isinstance(given, dict):
        faults.add(place, f"is {given!r}, expected keys and values, such as {{epochs: 3}}.")
        return {}
    hints, known = get_type_hints(Stage), [*SETTINGS, "group_by"]
    found: dict[str, Any] = {}
    for key, value in given.items():
        here = (*place, key)
        if key not in known:
            faults.add(here, f"unknown setting; {nearest(key, known)}")
        elif key == "lora":
            found[key] = _lora(value, here, faults)
        elif key == "group_by":
            found[key] = _group_by(value, here, faults, home)
        elif key == "group_weights":
            found[key] = value if value is None else _weights(value, here, reader)
        elif key == "replay":
            found[key] = reader.names(value, here)
        elif _fits(value, hints[key]):
            found[key] = tuple(value) if isinstance(value, list) else value
        else:
            faults.add(here, f"is {value!r}, expected {_words(hints[key])}.")
    return found


def of_stage(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a Stage that settings hold by themselves: without data, groups and replay."""
    fields = {
        key: value
        for key, value in settings.items()
        if key not in ("group_by", "group_weights", "replay")
    }
    if fields.get("lora") is not None:
        fields["lora"] = Lora(**fields["lora"])
    return fields


def _lora(given: Any, place: Keys, faults: Faults) -> dict[str, Any] | None:
    if given is None:
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        given = {"rank": given}
    read = _typed(given, place, faults, get_type_hints(Lora), ("rank",))
    return read or None


def _group_by(given: Any, place: Keys, faults: Faults, home: Path | None) -> dict[str, Any] | None:
    if given is None:
        return None
    if isinstance(given, str):
        given = {"metric": given}
    metric = given.get("metric") if isinstance(given, dict) else None
    if metric not in METRICS:
        faults.add(place, f"is {given!r}, expected {{metric: …}} with one of {', '.join(METRICS)}.")
        return None
    read = _typed(given, place, faults, {"metric": str, **METRICS[metric]}, NEEDED.get(metric, ()))
    if "anchors" in read:
        read["anchors"] = source(ANCHORS, given["anchors"], (*place, "anchors"), home, faults)
    if "bins" in read and "edges" in read:
        faults.add(place, "bins and edges are both given. Keep one of the two.")
    if (encoder := read.get("encoder", ENCODERS[0])) not in ENCODERS:
        faults.add((*place, "encoder"), f"is {encoder!r}; {nearest(encoder, list(ENCODERS))}")
    if encoder == "sentence_transformers" and "model" not in read:
        faults.add(place, "sentence_transformers needs model: a folder, or a name on the hub.")
    return read


def _weights(given: Any, place: Keys, reader: Reader) -> dict[str, float]:
    if not isinstance(given, dict) or not given:
        reader.faults.add(
            place,
            f"is {given!r}, expected groups with their weights, such as {{sums: 2, chat: 1}}.",
        )
        return {}
    return {
        str(name): float(reader.share(weight, (*place, name))) for name, weight in given.items()
    }


def _typed(
    given: Any, place: Keys, faults: Faults, hints: Mapping[str, Any], needed: tuple[str, ...]
) -> dict[str, Any]:
    if not isinstance(given, dict):
        faults.add(place, f"is {given!r}, expected keys and values: {', '.join(hints)}.")
        return {}
    found = {}
    for key, value in given.items():
        if key not in hints:
            faults.add((*place, key), f"unknown key; {nearest(key, list(hints))}")
        elif not _fits(value, hints[key]):
            faults.add((*place, key), f"is {value!r}, expected {_words(hints[key])}.")
        else:
            found[key] = tuple(value) if isinstance(value, list) else value
    for key in needed:
        if key not in given and given.keys() <= hints.keys():
            faults.add(place, f"needs {key}.")
    return found


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML is of a type; a list does for a tuple, a whole number for any number."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _words(hint: Any) -> str:
    """A type for people."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)[:-1])) + f" or {get_args(hint)[-1]}"
    if get_origin(hint) is tuple:
        return "a list, each " + _words(get_args(hint)[0])
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return names[hint]
