"""Undo and redo as a value: a hundred steps, one per settled action."""

from __future__ import annotations

from dataclasses import dataclass, field

Omegas = tuple[float, ...]
STEPS = 100


@dataclass(frozen=True)
class History:
    """What the sliders showed before, show now, and showed before an undo."""

    present: Omegas = ()
    past: tuple[Omegas, ...] = ()
    future: tuple[Omegas, ...] = field(default=())

    def moved(self, omegas: Omegas) -> History:
        """After an action. Settling where the sliders already stand is no step, so a server-side undo adds none."""
        if omegas == self.present:
            return self
        past = (*self.past, self.present) if self.present else ()
        return History(omegas, past[-STEPS:])

    def undone(self) -> History:
        """One step back; itself at the beginning."""
        if not self.past:
            return self
        return History(self.past[-1], self.past[:-1], (self.present, *self.future))

    def redone(self) -> History:
        """One step forward again; itself at the end."""
        if not self.future:
            return self
        return History(self.future[0], (*self.past, self.present), self.future[1:])
