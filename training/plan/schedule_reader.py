"""Reads the schedules of a plan from the values of its YAML, and reports every fault."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from corpus.subsets import PROPORTIONS
from plumbing.strict_yaml import Keys
from plumbing.suggest import nearest
from training.plan.faults import Faults
from training.plan.schedule_kinds import DEFAULT_K, KEYS, NEEDED, STAGES, Entry, owners


class ScheduleReader:
    """Reads the schedules of a plan.

    A value with a fault is replaced by a valid one, so that the rest can be read and all faults are
    reported at once. Every method takes the raw value of the YAML, and the value's keys for
    messages.

    Args:
        sources: names of the plan's sources.
        faults: gets everything that is wrong.
        settings: reads settings from their raw value and its keys.
    """

    def __init__(
        self,
        sources: tuple[str, ...],
        faults: Faults,
        settings: Callable[[Any, Keys], dict[str, Any]],
    ):
        self.sources, self.faults, self.settings = sources, faults, settings

    def schedule(self, raw: Any, keys: Keys) -> Entry | None:
        """Reads one schedule and fills in its defaults; None if its kind is unknown."""
        if not isinstance(raw, dict):
            self.faults.add(
                keys, f"is {raw!r}, expected keys and values, such as {{kind: experts}}."
            )
            return None
        kind = raw.get("kind")
        if kind not in KEYS:
            problem = (
                f"kind is {kind!r}; {nearest(kind, list(KEYS))}"
                if "kind" in raw
                else f"kind is missing; known: {', '.join(KEYS)}"
            )
            self.faults.add((*keys, "kind"), problem)
            return None
        known = ["kind", *KEYS[kind], "settings", "each"]
        for key in raw:
            if key not in known:
                self.faults.add((*keys, key), f"unknown key of {kind}; {nearest(key, known)}")
        for key in NEEDED.get(kind, ()):
            if key not in raw:
                self.faults.add(keys, f"{kind} needs {key}: a list of sources.")
        entry: dict[str, Any] = {"kind": kind} | {
            key: getattr(self, reader)(raw[key], (*keys, key))
            for key, reader in KEYS[kind].items()
            if key in raw
        }
        # Before `each`, which may name every source that the defaults contain.
        self._complete(entry, keys)
        entry["settings"] = self.settings(raw.get("settings"), (*keys, "settings"))
        entry["each"] = self._each(entry, raw.get("each"), (*keys, "each"))
        # In the order of KEYS, so that equal schedules are written as the same YAML.
        return {key: entry[key] for key in known if key in entry}

    def names(self, raw: Any, keys: Keys) -> tuple[str, ...]:
        """Reads the name of one source or a list of names; returns each once."""
        listed = [raw] if isinstance(raw, str) else raw
        if not isinstance(listed, list) or not listed:
            self.faults.add(
                keys, f"is {raw!r}, expected a list of sources: {', '.join(self.sources)}."
            )
            return ()
        for number, name in enumerate(listed):
            if name not in self.sources:
                self.faults.add(
                    keys, f"no source is called {name!r}; {nearest(name, list(self.sources))}"
                )
            elif name in listed[:number]:
                self.faults.add(keys, f'names "{name}" twice. Name each source once.')
        return tuple(dict.fromkeys(name for name in listed if name in self.sources))

    def share(self, raw: Any, keys: Keys) -> Fraction:
        """Reads a number of 0 or more, such as 1, 0.25 or "1/256"."""
        try:
            # bool is a subclass of int, and `k: true` is a mistake.
            if isinstance(raw, bool) or not isinstance(raw, int | float | str):
                raise ValueError
            # repr returns the decimal that was written: 0.7 is 7/10, not the nearest binary number.
            share = Fraction(Decimal(repr(raw))) if isinstance(raw, float) else Fraction(raw)
        except (ValueError, OverflowError, ZeroDivisionError):
            self.faults.add(
                keys, f"{raw!r} is not a share. Write a number, such as 1, 0.25 or 1/256."
            )
            return Fraction(1)
        if share < 0:
            self.faults.add(keys, f"a share of {raw} is below 0. Give 0 or more.")
            return Fraction(1)
        return share

    def shares(self, raw: Any, keys: Keys) -> dict[str, Fraction]:
        """Reads the share of each source; at least one must be above 0."""
        if not isinstance(raw, dict) or not raw:
            self.faults.add(
                keys, f"is {raw!r}, expected sources with their shares, such as {{math: 1/4}}."
            )
            return {}
        self.names(list(raw), keys)
        read = {
            name: self.share(share, (*keys, name))
            for name, share in raw.items()
            if name in self.sources
        }
        # It is empty if every name was wrong, which is already reported.
        if not any(read.values()) and read:
            self.faults.add(keys, "every share is 0, so there is nothing to train on.")
        return read

    def proportions(self, raw: Any, keys: Keys) -> tuple[Fraction, ...]:
        """Reads one share from 0 to 1 or a list of them; returns each once."""
        listed = raw if isinstance(raw, list) else [raw]
        if not listed:
            self.faults.add(keys, "is an empty list; give at least one share, such as 1/256.")
        read = tuple(self.share(share, keys) for share in listed)
        for share in read:
            if share > 1:
                self.faults.add(keys, f"a k of {share} is above 1. Give a share from 0 to 1.")
        return tuple(dict.fromkeys(read))

    def count(self, raw: Any, keys: Keys) -> int:
        """Reads a whole number, 1 or more."""
        if isinstance(raw, bool) or not isinstance(raw, int) or raw < 1:
            self.faults.add(keys, f"is {raw!r}, expected a whole number from 1.")
            return 1
        return raw

    def flag(self, raw: Any, keys: Keys) -> bool:
        """Reads true or false."""
        if not isinstance(raw, bool):
            self.faults.add(keys, f"is {raw!r}, expected true or false.")
        return raw is True

    def _complete(self, entry: dict[str, Any], keys: Keys) -> None:
        """Fills in the defaults of a schedule, and reports keys that contradict each other."""
        match entry["kind"]:
            case "experts":
                entry.setdefault("sources", self.sources)
            case "mixing":
                if {"shares", "parts"} <= entry.keys():
                    self.faults.add(
                        keys,
                        "shares (of each source) and parts (of the mixture) are both given. "
                        "Keep one.",
                    )
                if "examples" in entry and "parts" not in entry:
                    self.faults.add(
                        (*keys, "examples"),
                        "goes with parts: it is the number of examples of the whole mixture. "
                        "Give parts, or leave examples out.",
                    )
                if "parts" not in entry:
                    entry.setdefault("shares", dict.fromkeys(self.sources, Fraction(1)))
            case "dmt" | "mixed_sequential":
                entry.update({stage: entry.get(stage, ()) for stage in STAGES})
                for name in entry["special"]:
                    if name in entry["general"]:
                        self.faults.add(
                            keys, f'"{name}" is special and general. It can be one of the two.'
                        )
                if entry["kind"] == "dmt":
                    entry.setdefault("k", DEFAULT_K)
            case "sequential":
                entry.setdefault("order", ())
            case _:
                self._complete_study(entry, keys)

    def _complete_study(self, entry: dict[str, Any], keys: Keys) -> None:
        """Fills in the defaults of a study over proportions, and reports contradictions."""
        hold = entry.setdefault("hold", {})
        entry.setdefault("vary", tuple(name for name in self.sources if name not in hold))
        entry.setdefault("k", PROPORTIONS)
        entry.setdefault("single", False)
        if not entry["vary"]:
            self.faults.add(keys, "holds every source and varies none. Leave one out of hold.")
        for name in entry["vary"]:
            if name in hold:
                self.faults.add(
                    keys, f'"{name}" is both varied and held. Name it in one of the two.'
                )
        if Fraction(0) in entry["k"] and not any(hold.values()):
            self.faults.add(
                (*keys, "k"),
                "a k of 0 leaves nothing to train on. Remove it, or hold another source.",
            )

    def _each(self, entry: Entry, raw: Any, keys: Keys) -> dict[str, dict[str, Any]]:
        """Reads `each`: name of a source or a stage -> its settings."""
        if raw is None:
            return {}
        names = list(owners(entry))
        if not isinstance(raw, dict) or not names:
            wanted = (
                "settings for " + ", ".join(names)
                if names
                else "nothing here: write settings instead"
            )
            self.faults.add(keys, f"is {raw!r}, expected {wanted}.")
            return {}
        for name in raw:
            if name not in names:
                self.faults.add(
                    (*keys, name), f"is not part of this schedule; {nearest(name, names)}"
                )
        return {name: self.settings(raw[name], (*keys, name)) for name in names if name in raw}
