"""How much data a run sees: examples, tokens, supervised tokens, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from corpus.tokens import Dropped, Encoded


@dataclass(frozen=True)
class Counts:
    """What is left of some records after encoding, and what is not.

    Attributes:
        examples: records that are used.
        dropped_too_long: records that were left out because they exceed the length limit.
        tokens: tokens of the examples, prompt and template included, without padding.
        supervised: those of them that the loss counts. A shift to the next token loses none: a first token is never one.
    """

    examples: int
    dropped_too_long: int
    tokens: int
    supervised: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.examples + other.examples,
            self.dropped_too_long + other.dropped_too_long,
            self.tokens + other.tokens,
            self.supervised + other.supervised,
        )

    @property
    def dropped_share(self) -> float:
        """Share of the records that was left out, 0 to 1; 0 where there were none."""
        total = self.examples + self.dropped_too_long
        return self.dropped_too_long / total if total else 0.0

    def in_words(self, max_length: int | None = None) -> str:
        """One line for a reader.

        >>> Counts(18818, 1204, 2500000, 900000).in_words(2048)
        "18,818 examples, 2,500,000 tokens (900,000 supervised); 1,204 of 20,022 left out (6.0 %), longer than 2,048 tokens"
        """
        used = f"{_many(self.examples, 'example')}, {_many(self.tokens, 'token')} ({self.supervised:,} supervised)"
        if not self.dropped_too_long:
            return f"{used}; none left out"
        limit = "too long" if max_length is None else f"longer than {_many(max_length, 'token')}"
        total = self.examples + self.dropped_too_long
        return f"{used}; {self.dropped_too_long:,} of {total:,} left out ({_percent(self.dropped_share)}), {limit}"


def count(encoded: Iterable[Encoded], dropped: Dropped) -> Counts:
    """The counts of what encode_all gave."""
    rows = [(len(item.ids), sum(item.supervised)) for item in encoded]
    return Counts(
        examples=len(rows),
        dropped_too_long=dropped.too_long,
        tokens=sum(tokens for tokens, _ in rows),
        supervised=sum(supervised for _, supervised in rows),
    )


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _percent(share: float) -> str:
    """A share in percent; what is not nothing is not written as 0.0, and what is not all not as 100.0."""
    shown = min(max(100 * share, 0.1), 99.9) if 0 < share < 1 else 100 * share
    return f"{shown:.1f} %"
