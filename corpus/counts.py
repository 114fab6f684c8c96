"""Counts the data that a run uses: examples, tokens, supervised tokens, and examples left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from corpus.tokens import Dropped, Encoded


@dataclass(frozen=True)
class Counts:
    """How many records, and how many of their tokens, are used after encoding.

    Attributes:
        examples: records that are used.
        dropped_too_long: records that were left out because they exceed the length limit.
        tokens: tokens of the examples, with prompt and template, without padding.
        supervised: those tokens that the loss counts. Shifting labels by one token loses none of
            them, because the first token of a text is never supervised.
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
        """The share of the records that was left out, 0 to 1; 0 if there were no records."""
        total = self.examples + self.dropped_too_long
        return self.dropped_too_long / total if total else 0.0

    def in_words(self, max_length: int | None = None) -> str:
        """Returns the counts as one line of text for users.

        Args:
            max_length: the length limit in tokens, if it is known.

        >>> Counts(18818, 1204, 2500000, 900000).in_words(2048)
        "18,818 examples, 2,500,000 tokens (900,000 supervised); 1,204 of 20,022 left out (6.0 %),
        longer than 2,048 tokens"
        """
        used = f"{_count_noun(self.examples, 'example')}, {_count_noun(self.tokens, 'token')}"
        used += f" ({self.supervised:,} supervised)"
        if not self.dropped_too_long:
            return f"{used}; none left out"
        limit = (
            "too long" if max_length is None else f"longer than {_count_noun(max_length, 'token')}"
        )
        left_out = f"{self.dropped_too_long:,} of {self.examples + self.dropped_too_long:,}"
        return f"{used}; {left_out} left out ({_percent(self.dropped_share)}), {limit}"


def count(encoded: Iterable[Encoded], dropped: Dropped) -> Counts:
    """Counts what encode_all returned."""
    # `encoded` may be an iterator, so it is read once.
    rows = [(len(item.ids), sum(item.supervised)) for item in encoded]
    return Counts(
        examples=len(rows),
        dropped_too_long=dropped.too_long,
        tokens=sum(tokens for tokens, _ in rows),
        supervised=sum(supervised for _, supervised in rows),
    )


def _count_noun(number: int, noun: str) -> str:
    """Returns '1 example' or '2 examples'."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _percent(share: float) -> str:
    """Returns a share in per cent; only an exact 0 or 1 is shown as 0.0 or 100.0."""
    shown = min(max(100 * share, 0.1), 99.9) if 0 < share < 1 else 100 * share
    return f"{shown:.1f} %"
