"""Counts the data that a run uses: examples, tokens, supervised tokens, and examples left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from corpus.tokens import Dropped, Encoded
from plumbing.units import counted


@dataclass(frozen=True)
class Counts:
    """How many records, and how many of their tokens, are used after encoding.

    Attributes:
        examples: records that are used.
        dropped_too_long: records that were left out because they exceed the length limit.
        tokens: tokens of the examples, with prompt and template, without padding.
        supervised: those tokens that the loss counts. Shifting labels by one token loses none of
            them, because the first token of a text is never supervised.
        parts: examples that are one answer of a longer chat.
        cut: examples that were cut off at the length limit.
        endless: examples from which the model does not learn to stop, because no token ends them.
    """

    examples: int
    dropped_too_long: int
    tokens: int
    supervised: int
    parts: int = 0
    cut: int = 0
    endless: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.examples + other.examples,
            self.dropped_too_long + other.dropped_too_long,
            self.tokens + other.tokens,
            self.supervised + other.supervised,
            self.parts + other.parts,
            self.cut + other.cut,
            self.endless + other.endless,
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
        used = f"{counted(self.examples, 'example')}, {counted(self.tokens, 'token')}"
        used += f" ({self.supervised:,} supervised)"
        if not self.dropped_too_long:
            return f"{used}; none left out"
        limit = "too long" if max_length is None else f"longer than {counted(max_length, 'token')}"
        return f"{used}; {self.left_out}, {limit}"

    @property
    def left_out(self) -> str:
        """How many records are left out, in words: "1,204 of 20,022 left out (6.0 %)"."""
        total = self.examples + self.dropped_too_long
        return f"{self.dropped_too_long:,} of {total:,} left out ({_percent(self.dropped_share)})"


def count(encoded: Iterable[Encoded], dropped: Dropped) -> Counts:
    """Counts what encode_all returned."""
    rows = list(encoded)
    return Counts(
        examples=len(rows),
        dropped_too_long=dropped.too_long,
        tokens=sum(len(row.ids) for row in rows),
        supervised=sum(row.learned for row in rows),
        parts=sum(row.part for row in rows),
        cut=sum(row.cut for row in rows),
        endless=sum(not row.stops for row in rows),
    )


def _percent(share: float) -> str:
    """Returns a share in per cent; only an exact 0 or 1 is shown as 0.0 or 100.0."""
    shown = min(max(100 * share, 0.1), 99.9) if 0 < share < 1 else 100 * share
    return f"{shown:.1f} %"
