"""Undo and redo as a value: a hundred steps, one per settled action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
STEPS = 100


@dataclass(frozen=True)
class History(Generic[T]):
    """What a page stood at before, stands at now, and stood at before an undo."""

    present: T | None = None
    """None before anything was settled."""
    past: tuple[T, ...] = ()
    future: tuple[T, ...] = ()

    def moved(self, to: T) -> History[T]:
        """After an action. Settling where the page already stands is no step, so a server-side undo adds none."""
        if to == self.present:
            return self
        past = self.past if self.present is None else (*self.past, self.present)
        return History(to, past[-STEPS:])

    def undone(self) -> History[T]:
        """One step back; itself at the beginning."""
        if not self.past or self.present is None:
            return self
        return History(self.past[-1], self.past[:-1], (self.present, *self.future))

    def redone(self) -> History[T]:
        """One step forward again; itself at the end."""
        if not self.future or self.present is None:
            return self
        return History(self.future[0], (*self.past, self.present), self.future[1:])

    def dropped(self) -> History[T]:
        """Without the present, which could not be carried out after all; itself at the beginning."""
        return History(self.past[-1], self.past[:-1]) if self.past else self
