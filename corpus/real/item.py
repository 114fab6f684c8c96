"""Item: a question of the real demo's data, with its answer and what else counts as right."""

from __future__ import annotations

from typing import Any, NamedTuple


class Item(NamedTuple):
    """One question and its answer."""

    question: str
    """What the user writes."""
    answer: str
    """What the assistant should write."""
    accepted: Any = None
    """What a verdict is found with; its form depends on the dataset. None if the answer is all."""
    group: str = ""
    """Items of one group ask the same in other words, so they share a split."""

    @property
    def row(self) -> dict[str, Any]:
        """The line of the item's file. Only a verdict reads `accepted`; training ignores it."""
        line: dict[str, Any] = {
            "messages": [
                {"role": "user", "content": self.question},
                {"role": "assistant", "content": self.answer},
            ]
        }
        return line | ({"accepted": self.accepted} if self.accepted is not None else {})
