"""Generates dialog: the next turn of a booking assistant, which asks, confirms or sums up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from corpus.demo.family import Family
from corpus.demo.vocabulary import CITIES, DAYS
from corpus.jsonl import Example

KINDS = ("car", "room", "table", "taxi", "tour")
ASK = {"city": "In which city?", "day": "For which day?", "people": "For how many people?"}
"""The agent's questions, in the order in which it asks."""


@dataclass(frozen=True)
class Booking:
    """What the user wants to book; a slot is None if the user has not said it yet."""

    kind: str
    city: str | None
    day: str | None
    people: int | None

    def missing(self) -> list[str]:
        """Returns the slots that the user has not said yet, in the order of ASK."""
        return [slot for slot in ASK if getattr(self, slot) is None]

    def said(self) -> str:
        """Returns the known slots as a user says them: " in Rome on Monday for 4 people"."""
        city = f" in {self.city}" if self.city else ""
        day = f" on {self.day}" if self.day else ""
        return city + day + (f" for {self.people} people" if self.people else "")

    def slot(self, name: str) -> str:
        """Returns a slot as a short answer: "In Rome", "On Monday", "For 4 people"."""
        return {
            "city": f"In {self.city}",
            "day": f"On {self.day}",
            "people": f"For {self.people} people",
        }[name]


OPENINGS = (
    "I need a {kind}{said}.",
    "I would like a {kind}{said}.",
    "Please book a {kind}{said}.",
    "Can I get a {kind}{said}?",
)
CHANGES = ("Sorry, make it {slot}.", "Wait, I meant {slot}.", "No, {slot} please.")


def booking(rng: Random) -> Booking:
    """Makes a booking with every slot said."""
    return Booking(rng.choice(KINDS), rng.choice(CITIES), rng.choice(DAYS), rng.randint(2, 9))


def open_some(rng: Random, full: Booking, count: int) -> Booking:
    """Returns the booking with `count` random slots not said yet."""
    unsaid: dict[str, Any] = dict.fromkeys(rng.sample(list(ASK), count))
    return replace(full, **unsaid)


def opening(rng: Random, known: Booking) -> str:
    """Makes the user's first turn."""
    return "User: " + rng.choice(OPENINGS).format(kind=known.kind, said=known.said())


def changed(rng: Random, full: Booking) -> tuple[Booking, str]:
    """Changes one slot; returns the new booking and the user's turn that asks for the change."""
    slot = rng.choice(list(ASK))
    other = booking(rng)
    # Drawn again until the slot differs: otherwise the user would ask for no change.
    while getattr(other, slot) == getattr(full, slot):
        other = booking(rng)
    after = replace(full, **{slot: getattr(other, slot)})
    text = after.slot(slot)
    return after, "User: " + rng.choice(CHANGES).format(slot=text[0].lower() + text[1:])


def confirmation(full: Booking) -> str:
    """Returns what the agent says when nothing is missing."""
    return f"Your {full.kind} in {full.city} on {full.day} for {full.people} people is booked."


def reply(turns: list[str], answer: str) -> Example:
    """Makes the example in which the agent gives an answer after these turns."""
    return Example("\n".join([*turns, "Agent:"]), f" {answer}")


def confirm(rng: Random) -> Example:
    """Makes an example in which the user says everything at once, and the agent confirms."""
    full = booking(rng)
    return reply([opening(rng, full)], confirmation(full))


def ask(rng: Random) -> Example:
    """Makes an example in which something is missing, and the agent asks for it."""
    known = open_some(rng, booking(rng), rng.randint(1, 2))
    # The agent asks in a fixed order, so that exactly one completion is right: the score is an
    # exact match.
    return reply([opening(rng, known)], ASK[known.missing()[0]])


def answered(rng: Random) -> Example:
    """Makes an example in which the user answered a question; the agent asks on, or confirms."""
    full = booking(rng)
    known = open_some(rng, full, rng.randint(1, 2))
    slot, *rest = known.missing()
    turns = [opening(rng, known), f"Agent: {ASK[slot]}", f"User: {full.slot(slot)}."]
    return reply(turns, ASK[rest[0]] if rest else confirmation(full))


def corrected(rng: Random) -> Example:
    """Makes an example in which the user changes one slot, and the agent confirms the change."""
    full = booking(rng)
    after, turn = changed(rng, full)
    return reply([opening(rng, full), f"Agent: {confirmation(full)}", turn], confirmation(after))


def state(rng: Random) -> Example:
    """Makes an example that asks for the booking in one line, after a change."""
    full = booking(rng)
    after, turn = changed(rng, full)
    summary = f"{after.kind} | {after.city} | {after.day} | {after.people}"
    return Example("\n".join([opening(rng, full), turn, "Booking:"]), f" {summary}")


def simple_state(rng: Random) -> Example:
    """Makes an example that asks for the booking in one line, without a change."""
    full = booking(rng)
    summary = f"{full.kind} | {full.city} | {full.day} | {full.people}"
    return Example("\n".join([opening(rng, full), "Booking:"]), f" {summary}")


DIALOG = Family(
    name="dialog",
    mirrors="InstructDial",
    easy=((confirm, 0.5), (simple_state, 0.5)),
    full=(
        (confirm, 0.1),
        (simple_state, 0.1),
        (ask, 0.2),
        (answered, 0.2),
        (corrected, 0.2),
        (state, 0.2),
    ),
    share=0.1,
    taste=0.1,
)
