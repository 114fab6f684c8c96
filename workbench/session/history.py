"""Undo and redo as an immutable value, with one entry per settled action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
STEPS = 100
"""How many actions can be undone."""


@dataclass(frozen=True)
class History(Generic[T]):
    """The standings of a page: the present one, those before it, and those that were undone.

    Attributes:
        present: the current value; None before anything was settled.
        past: earlier values, oldest first.
        future: undone values, the one that redo restores first.
    """

    present: T | None = None
    past: tuple[T, ...] = ()
    future: tuple[T, ...] = ()

    def moved(self, to: T) -> History[T]:
        """Returns the history after an action that leads to this value; nothing can be redone."""
        # Settling the present value again is not an action: the page does it after every undo.
        if to == self.present:
            return self
        past = self.past if self.present is None else (*self.past, self.present)
        return History(to, past[-STEPS:])

    def undone(self) -> History[T]:
        """Returns the history one action back, or itself at the beginning."""
        if not self.past or self.present is None:
            return self
        return History(self.past[-1], self.past[:-1], (self.present, *self.future))

    def redone(self) -> History[T]:
        """Returns the history with the last undone action restored, or itself if there is none."""
        if not self.future or self.present is None:
            return self
        return History(self.future[0], (*self.past, self.present), self.future[1:])

    def dropped(self) -> History[T]:
        """Returns the history without its present, which could not be composed after all."""
        return History(self.past[-1], self.past[:-1]) if self.past else self
