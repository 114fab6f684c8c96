"""The kinds of schedule that a plan may name: the keys of each, how they are read, and the steps they come to.

    {kind: experts, sources: [math, code]}                          one checkpoint per source: what DEM composes
    {kind: mixing, shares: {math: 1, code: 1/4}}                    one step on shares of the sources
    {kind: mixing, parts: {math: 0.7, code: 0.3}, examples: 5000}   one step on a mixture in given proportions
    {kind: sequential, order: [code, math, general]}
    {kind: mixed_sequential, special: [code, math], general: [general]}
    {kind: dmt, special: [code, math], general: [general], k: [1/256, 1/64]}
    {kind: proportions, vary: [code, math], k: [1, 1/4], hold: {general: 1}, single: false}

Every kind takes `settings`, which stand over the plan's, and most take `each`: settings per source, or for `special` and
`general`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from corpus.subsets import PROPORTIONS
from plumbing.strict_yaml import Keys
from plumbing.suggest import nearest
from training.plan import schedules as schedule
from training.plan.faults import Faults
from training.plan.schedules import Step
from training.plan.sources import plain_value

STAGES = ("special", "general")
DEFAULT_K = (Fraction(1, 256),)
"""What the paper reports (arXiv 2310.05492, section 4)."""

KEYS: dict[str, dict[str, str]] = {
    "experts": {"sources": "names"},
    "mixing": {"shares": "shares", "parts": "shares", "examples": "count"},
    "sequential": {"order": "names"},
    "mixed_sequential": dict.fromkeys(STAGES, "names"),
    "dmt": dict.fromkeys(STAGES, "names") | {"k": "proportions"},
    "proportions": {"vary": "names", "k": "proportions", "hold": "shares", "single": "flag"},
}
"""Kind -> its keys -> what each holds, which is also the method of Reader that reads it."""

NEEDED = {"sequential": ("order",), "mixed_sequential": STAGES, "dmt": STAGES}
"""Keys without a default."""

Entry = Mapping[str, Any]
"""A schedule as `Reader.schedule` gives it: every key in place, sources as tuples of names, shares as fractions."""


def steps(entry: Entry) -> list[Step]:
    """The steps of one schedule."""
    over, given = entry["settings"], entry["each"]
    each = {name: merged(over, given.get(name, {})) for name in _owners(entry)}
    match entry["kind"]:
        case "experts":
            return schedule.experts(entry["sources"], each)
        case "mixing":
            parts = "parts" in entry
            shares = entry["parts" if parts else "shares"]
            return schedule.mixing(
                shares, parts=parts, examples=entry.get("examples"), settings=over
            )
        case "sequential":
            return schedule.sequential(entry["order"], each)
        case "mixed_sequential":
            return schedule.mixed_sequential(entry["special"], entry["general"], each)
        case "dmt":
            return schedule.dmt(entry["special"], entry["general"], entry["k"], each)
        case _:
            hold, single = entry["hold"], entry["single"]
            return schedule.proportions(
                entry["vary"], entry["k"], hold=hold, single=single, settings=over, each=each
            )


def merged(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others over them. A stage is as long as its steps or its epochs say: one drives out the other.

    >>> merged({"epochs": 3, "rate": 1e-4}, {"steps": 100})
    {'rate': 0.0001, 'steps': 100}
    """
    length = {"steps", "epochs"}
    driven_out = length if length & over.keys() else set()
    return {key: value for key, value in settings.items() if key not in driven_out} | dict(over)


def schedule_yaml(entry: Entry) -> dict[str, Any]:
    """The schedule as a plan writes it: what `Reader.schedule` reads back as the same."""
    return {key: plain_value(value) for key, value in entry.items() if value not in ({}, False)}


def _owners(entry: Entry) -> tuple[str, ...]:
    """What `each` may name."""
    match entry["kind"]:
        case "experts":
            return tuple(entry["sources"])
        case "sequential":
            return tuple(entry["order"])
        case "mixed_sequential" | "dmt":
            return STAGES
        case "proportions" if entry["single"]:
            return tuple(entry["vary"])
    return ()


class Reader:
    """Reads the schedules of a plan; what is wrong goes to `faults`, and a value that would do stands in for it."""

    def __init__(
        self,
        sources: tuple[str, ...],
        faults: Faults,
        settings: Callable[[Any, Keys], dict[str, Any]],
    ):
        self.sources, self.faults, self.settings = sources, faults, settings

    def schedule(self, given: Any, place: Keys) -> Entry | None:
        """One schedule with its defaults filled in, or None when its kind is not known."""
        if not isinstance(given, dict):
            self.faults.add(
                place, f"is {given!r}, expected keys and values, such as {{kind: experts}}."
            )
            return None
        kind = given.get("kind")
        if kind not in KEYS:
            what = (
                f"kind is {kind!r}; {nearest(kind, list(KEYS))}"
                if "kind" in given
                else "kind is missing."
            )
            self.faults.add((*place, "kind"), f"{what} Known: {', '.join(KEYS)}.")
            return None
        known = ["kind", *KEYS[kind], "settings", "each"]
        for key in given:
            if key not in known:
                self.faults.add((*place, key), f"unknown key of {kind}; {nearest(key, known)}")
        for key in NEEDED.get(kind, ()):
            if key not in given:
                self.faults.add(place, f"{kind} needs {key}: a list of sources.")
        entry: dict[str, Any] = {"kind": kind} | {
            key: getattr(self, what)(given[key], (*place, key))
            for key, what in KEYS[kind].items()
            if key in given
        }
        self._complete(entry, place)
        entry["settings"] = self.settings(given.get("settings"), (*place, "settings"))
        entry["each"] = self._each(entry, given.get("each"), (*place, "each"))
        return {key: entry[key] for key in known if key in entry}

    def names(self, given: Any, place: Keys) -> tuple[str, ...]:
        """One source or a list of them, each once."""
        listed = [given] if isinstance(given, str) else given
        if not isinstance(listed, list) or not listed:
            self.faults.add(
                place, f"is {given!r}, expected a list of sources: {', '.join(self.sources)}."
            )
            return ()
        for number, name in enumerate(listed):
            if name not in self.sources:
                self.faults.add(
                    place, f"no source is called {name!r}; {nearest(name, list(self.sources))}"
                )
            elif name in listed[:number]:
                self.faults.add(place, f'names "{name}" twice. Name each source once.')
        return tuple(dict.fromkeys(name for name in listed if name in self.sources))

    def share(self, given: Any, place: Keys) -> Fraction:
        """A number from 0; a decimal is what is written, 0.7 is 7/10."""
        try:
            if isinstance(given, bool) or not isinstance(given, int | float | str):
                raise ValueError
            share = Fraction(Decimal(repr(given))) if isinstance(given, float) else Fraction(given)
        except (ValueError, OverflowError, ZeroDivisionError):
            self.faults.add(
                place, f"{given!r} is not a share. Write a number, such as 1, 0.25 or 1/256."
            )
            return Fraction(1)
        if share < 0:
            self.faults.add(place, f"a share of {given} is below 0.")
            return Fraction(1)
        return share

    def shares(self, given: Any, place: Keys) -> dict[str, Fraction]:
        """Source -> share."""
        if not isinstance(given, dict) or not given:
            self.faults.add(
                place, f"is {given!r}, expected sources with their shares, such as {{math: 1/4}}."
            )
            return {}
        self.names(list(given), place)
        read = {
            name: self.share(share, (*place, name))
            for name, share in given.items()
            if name in self.sources
        }
        if not any(read.values()) and read:
            self.faults.add(place, "every share is 0, so there is nothing to train on.")
        return read

    def proportions(self, given: Any, place: Keys) -> tuple[Fraction, ...]:
        """One share of 0 to 1, or a list of them, each once."""
        listed = given if isinstance(given, list) else [given]
        if not listed:
            self.faults.add(place, "is an empty list; give at least one share, such as 1/256.")
        read = tuple(self.share(share, place) for share in listed)
        for share in read:
            if share > 1:
                self.faults.add(place, f"a k of {share} is above 1.")
        return tuple(dict.fromkeys(read))

    def count(self, given: Any, place: Keys) -> int:
        """A whole number from 1."""
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            self.faults.add(place, f"is {given!r}, expected a whole number from 1.")
            return 1
        return given

    def flag(self, given: Any, place: Keys) -> bool:
        """True or false."""
        if not isinstance(given, bool):
            self.faults.add(place, f"is {given!r}, expected true or false.")
        return given is True

    def _complete(self, entry: dict[str, Any], place: Keys) -> None:
        """Fills in the defaults, and sees that the keys agree with each other."""
        match entry["kind"]:
            case "experts":
                entry.setdefault("sources", self.sources)
            case "mixing":
                if {"shares", "parts"} <= entry.keys():
                    self.faults.add(
                        place,
                        "shares (of each source) and parts (of the mixture) are both given. Keep one.",
                    )
                if "examples" in entry and "parts" not in entry:
                    self.faults.add(
                        (*place, "examples"), "goes with parts: the examples of the whole mixture."
                    )
                if "parts" not in entry:
                    entry.setdefault("shares", dict.fromkeys(self.sources, Fraction(1)))
            case "dmt" | "mixed_sequential":
                entry.update({stage: entry.get(stage, ()) for stage in STAGES})
                for name in entry["special"]:
                    if name in entry["general"]:
                        self.faults.add(
                            place, f'"{name}" is special and general. It can be one of the two.'
                        )
                if entry["kind"] == "dmt":
                    entry.setdefault("k", DEFAULT_K)
            case "sequential":
                entry.setdefault("order", ())
            case _:
                self._complete_study(entry, place)

    def _complete_study(self, entry: dict[str, Any], place: Keys) -> None:
        hold = entry.setdefault("hold", {})
        entry.setdefault("vary", tuple(name for name in self.sources if name not in hold))
        entry.setdefault("k", PROPORTIONS)
        entry.setdefault("single", False)
        if not entry["vary"]:
            self.faults.add(place, "holds every source and varies none. Leave one out of hold.")
        for name in entry["vary"]:
            if name in hold:
                self.faults.add(
                    place, f'"{name}" is both varied and held. Name it in one of the two.'
                )
        if Fraction(0) in entry["k"] and not any(hold.values()):
            self.faults.add(
                (*place, "k"),
                "a k of 0 leaves nothing to train on. Remove it, or hold another source.",
            )

    def _each(self, entry: Entry, given: Any, place: Keys) -> dict[str, dict[str, Any]]:
        if given is None:
            return {}
        owners = list(_owners(entry))
        if not isinstance(given, dict) or not owners:
            wanted = (
                "settings for " + ", ".join(owners)
                if owners
                else "nothing here: write settings instead"
            )
            self.faults.add(place, f"is {given!r}, expected {wanted}.")
            return {}
        for name in given:
            if name not in owners:
                self.faults.add(
                    (*place, name), f"is not part of this schedule; {nearest(name, owners)}"
                )
        return {
            name: self.settings(given[name], (*place, name)) for name in owners if name in given
        }
