"""Plans on the page: read only as far as the allowed folders go, and written by the fields of a form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plumbing.strict_yaml import dump
from training.plan.faults import Faults, read_document
from training.stage import Stage
from workbench.errors import SessionError

if TYPE_CHECKING:
    pass

START: dict[str, Any] = {"epochs": 1, "rate": 6e-4, "batch": 32}
"""What a new plan sets; the rest has the defaults of training.stage.Stage."""


DEFAULTS = {one.name: one.default for one in dataclasses.fields(Stage)}


def new(base: str, sources: Mapping[str, str], validation: Mapping[str, str]) -> str:
    """The plan of a page that was just opened: one checkpoint per source."""
    document = {"base": base, "sources": dict(sources), "validation": dict(validation)}
    document |= {"settings": START, "schedule": {"kind": "experts"}}
    return dump({key: value for key, value in document.items() if value})


def document(text: str) -> dict[str, Any]:
    """A plan's keys and values as they are written; PlanError where the text is no YAML."""
    faults = Faults()
    found = read_document(text, faults) if text.strip() else {}
    faults.raise_any()
    return found


def with_sources(text: str, sources: Mapping[str, str], validation: Mapping[str, str]) -> str:
    """The plan on other sources; what it says beside the path of one that stays is kept.

    Raises:
        PlanError: the text is no YAML.
    """
    found = start = document(text)
    for section, given in (("sources", sources), ("validation", validation)):
        old = found.get(section)
        old = old if isinstance(old, dict) else {}
        kept = {
            name: old[name] if path_of(old.get(name)) == path else path
            for name, path in given.items()
        }
        found = _placed(found, section, kept)
    return _written(text, start, found)


def with_schedule(text: str, schedule: Mapping[str, Any]) -> str:
    """The plan in another order; settings that its schedule has of its own are kept."""
    found = document(text)
    old = found.get("schedule")
    own = {key: old[key] for key in ("settings",) if key in old} if isinstance(old, dict) else {}
    return _written(text, found, _placed(found, "schedule", {**schedule, **own}))


def with_settings(text: str, **changed: Any) -> str:
    """The plan with other settings. One that is None is left out, and so is what goes without saying.

    >>> with_settings("settings: {epochs: 3, rate: 0.001}", epochs=None, steps=100)
    'settings:\\n  rate: 0.001\\n  steps: 100\\n'
    """
    found = document(text)
    old = found.get("settings")
    old = old if isinstance(old, dict) else {}
    said = {
        key: value for key, value in changed.items() if key in old or value != DEFAULTS.get(key)
    }
    settings = {key: value for key, value in (old | said).items() if value is not None}
    return _written(text, found, _placed(found, "settings", settings))


def with_base(text: str, base: str) -> str:
    """The plan on another base."""
    found = document(text)
    return _written(text, found, _placed(found, "base", base))


def _written(text: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    """The new plan as text; the text itself, with its comments, where nothing is new."""
    return text if new == old else dump(new)


def _placed(found: dict[str, Any], section: str, value: Any) -> dict[str, Any]:
    """With a section in its usual place; an empty one is left out."""
    order = ("base", "sources", "validation", "settings", "schedule", "subset_seed")
    merged = {**found, section: value}
    first = {
        key: merged[key] for key in order if key in merged and merged[key] not in ("", {}, None)
    }
    return first | {key: value for key, value in merged.items() if key not in order}


def path_of(entry: Any) -> str:
    """The path of a source as a plan writes it."""
    return str(entry.get("path", "")) if isinstance(entry, dict) else str(entry or "")


def numbers(text: str | None) -> list[Any]:
    """Shares out of a text field, as a plan writes them: commas or spaces between them."""
    return [_number(word) for word in re.split(r"[,\s]+", text or "") if word]


def shares(text: str | None, names: Sequence[str]) -> dict[str, Any]:
    """Source -> share out of a text field such as "math 1, code 1/4".

    Raises:
        SessionError: a part that is not a source with its share.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in re.split(r"[,\n]", text or ""))):
        name, _, share = part.replace("=", " ").replace(":", " ").partition(" ")
        if name not in names or not share.strip():
            known = ", ".join(names) or "none is chosen yet"
            example = f"{names[0] if names else 'math'} 1/4"
            raise SessionError(
                f"{part!r} is not a source with its share, such as {example}. Sources: {known}."
            )
        found[name] = _number(share.strip())
    return found


def _number(word: str) -> Any:
    """A number as YAML would read it; what is none stays as it is, for the plan's own message."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
