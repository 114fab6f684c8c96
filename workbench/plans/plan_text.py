"""Edits the text of a plan key by key; each function returns the new text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from plumbing.strict_yaml import dump
from training.plan.faults import Faults, read_document
from training.stage import Stage
from workbench.errors import SessionError

START: dict[str, Any] = {"epochs": 1, "rate": 6e-4, "batch": 32}
"""Settings of a new plan; all others have the defaults of training.stage.Stage."""

DEFAULTS = {setting.name: setting.default for setting in dataclasses.fields(Stage)}
"""Setting -> its default."""


def new(base: str, sources: Mapping[str, str], validation: Mapping[str, str]) -> str:
    """Returns a new plan that trains one expert per source.

    Args:
        base: path of the base; "" leaves the key out.
        sources: name -> path of the training data.
        validation: name -> path of the validation data.
    """
    document = {"base": base, "sources": dict(sources), "validation": dict(validation)}
    document |= {"settings": START, "schedule": {"kind": "experts"}}
    return dump({key: value for key, value in document.items() if value})


def document(text: str) -> dict[str, Any]:
    """Returns the keys and values of a plan as they are written, without checking them.

    Raises:
        PlanError: the text is not YAML.
    """
    faults = Faults()
    keys = read_document(text, faults) if text.strip() else {}
    faults.raise_any()
    return keys


def with_sources(text: str, sources: Mapping[str, str], validation: Mapping[str, str]) -> str:
    """Returns the plan with other sources and validation data.

    A source that stays keeps everything that the plan says about it besides its path.

    Raises:
        PlanError: the text is not YAML.
    """
    new = start = document(text)
    for section, paths in (("sources", sources), ("validation", validation)):
        old = new.get(section)
        old = old if isinstance(old, dict) else {}
        entries = {
            name: old[name] if path_of(old.get(name)) == path else path
            for name, path in paths.items()
        }
        new = _with_section(new, section, entries)
    return _to_text(text, start, new)


def with_schedule(text: str, schedule: Mapping[str, Any]) -> str:
    """Returns the plan with another schedule; the settings inside the old schedule are kept."""
    plan = document(text)
    old = plan.get("schedule")
    # All other keys belong to the old kind of schedule, and another kind may refuse them.
    own = {key: old[key] for key in ("settings",) if key in old} if isinstance(old, dict) else {}
    return _to_text(text, plan, _with_section(plan, "schedule", {**schedule, **own}))


def with_settings(text: str, **changed: Any) -> str:
    """Returns the plan with these settings changed.

    A setting that is None is removed. A setting at its default is not added, only changed.

    >>> with_settings("settings: {epochs: 3, rate: 0.001}", epochs=None, steps=100)
    'settings:\\n  rate: 0.001\\n  steps: 100\\n'
    """
    plan = document(text)
    old = plan.get("settings")
    old = old if isinstance(old, dict) else {}
    new = {key: value for key, value in changed.items() if key in old or value != DEFAULTS.get(key)}
    settings = {key: value for key, value in (old | new).items() if value is not None}
    return _to_text(text, plan, _with_section(plan, "settings", settings))


def with_base(text: str, base: str) -> str:
    """Returns the plan with another base."""
    plan = document(text)
    return _to_text(text, plan, _with_section(plan, "base", base))


def _to_text(text: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    """Returns the new plan as text, or the old text if nothing changed."""
    # Writing the YAML anew would lose the user's comments.
    return text if new == old else dump(new)


def _with_section(plan: dict[str, Any], section: str, value: Any) -> dict[str, Any]:
    """Returns the plan with a section in its usual place; empty sections are left out."""
    # One order, so that a plan reads the same whichever field of the form was used first.
    order = ("base", "sources", "validation", "settings", "schedule", "subset_seed")
    merged = {**plan, section: value}
    first = {
        key: merged[key] for key in order if key in merged and merged[key] not in ("", {}, None)
    }
    return first | {key: value for key, value in merged.items() if key not in order}


def path_of(entry: Any) -> str:
    """Returns the path in an entry of `sources`, which is a path or a mapping with one; or ""."""
    return str(entry.get("path", "")) if isinstance(entry, dict) else str(entry or "")


def parse_numbers(text: str | None) -> list[Any]:
    """Returns the numbers of a text field as a plan writes them, separated by commas or spaces."""
    return [_number(word) for word in re.split(r"[,\s]+", text or "") if word]


def parse_shares(text: str | None, names: Sequence[str]) -> dict[str, Any]:
    """Returns source -> share from a text field such as "math 1, code 1/4".

    Args:
        text: the field's text; parts are separated by commas or line breaks.
        names: the sources of the plan.

    Raises:
        SessionError: a part is not a source with its share.
    """
    by_source: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in re.split(r"[,\n]", text or ""))):
        name, _, share = part.replace("=", " ").replace(":", " ").partition(" ")
        if name not in names or not share.strip():
            known = ", ".join(names) or "none is chosen yet"
            example = f"{names[0] if names else 'math'} 1/4"
            raise SessionError(
                f"{part!r} is not a source with its share, such as {example}. Sources: {known}."
            )
        by_source[name] = _number(share.strip())
    return by_source


def _number(word: str) -> Any:
    """Returns a number as YAML would read it, or the word itself, which the plan then refuses."""
    # int comes first, because a plan refuses 32.0 where it wants a whole number.
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
