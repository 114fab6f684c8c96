"""Two helpers of error messages: the nearest known word, and a list that is cut short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def nearest(word: object, known: Iterable[str]) -> str:
    """Returns the hint that follows an unknown word: the nearest known word, or all of them.

    >>> nearest("wieght", ["weight", "density"])
    "did you mean 'weight'?"
    >>> nearest("zzz", ["weight", "density"])
    'known: density, weight'
    """
    words = sorted(known)
    close = get_close_matches(str(word), words, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(words)}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Returns the first few names and how many more there are: 'a, b, c and 7 more'."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
