"""Draws deterministic subsets that nest, 1/256 ⊂ 1/64 ⊂ … ⊂ 1, with counts rounded down.

The proportions and the counts are those of DMT's data-size study (arXiv 2310.05492, section 3).
Worked examples:

    110142 · 1/4, 1/16, 1/64, 1/256  ->  27535, 6883, 1720, 430
     20022                           ->   5005, 1251,  312,  78
     86060                           ->  21515, 5378, 1344, 336
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from random import Random

from corpus.errors import CorpusError

PROPORTIONS = tuple(Fraction(1, 4**power) for power in range(5))
"""1, 1/4, 1/16, 1/64, 1/256."""

Share = Fraction | str | float
"""A share of a dataset: Fraction(1, 4), "1/4", "0.25", 0.25 or 1."""


def share_of(value: Share) -> Fraction:
    """Returns a share as an exact fraction from 0 to 1.

    A decimal number means what is written: 0.7 is 7/10, not the nearest float.

    >>> share_of("1/256"), share_of(0.7)
    (Fraction(1, 256), Fraction(7, 10))

    Raises:
        CorpusError: the value is not a number, or is outside 0 to 1.
    """
    advice = 'Write a number from 0 to 1, such as 0.25 or "1/4".'
    try:
        if isinstance(value, bool) or not isinstance(value, (Fraction, str, int, float)):
            raise ValueError
        # repr gives a float's shortest decimal: floor(10 · 0.7) is 7; its binary value gives 6.
        share = Fraction(Decimal(repr(value))) if isinstance(value, float) else Fraction(value)
    except (ValueError, OverflowError, ZeroDivisionError):
        raise CorpusError(f"{value!r} is not a share. {advice}") from None
    if not 0 <= share <= 1:
        raise CorpusError(f"a share of {value} is outside 0 to 1. {advice}")
    return share


def nested(count: int, share: Share, seed: int, minimum: int = 0) -> list[int]:
    """Draws a share of `count` records: the first floor(count · share) of a permutation.

    The permutation depends only on count and seed, so a smaller share is the beginning of a larger
    one.

    Args:
        count: number of all records.
        share: see Share.
        seed: another seed draws other records.
        minimum: the least number of records to draw, if there are that many.

    Returns:
        Indices from 0 to count − 1 in the order of the permutation; sort them for the records'
        own order.

    Raises:
        CorpusError: a count or minimum below 0, or an error of share_of.
    """
    if count < 0 or minimum < 0:
        raise CorpusError(f"count is {count} and minimum {minimum}; both must be 0 or more.")
    taken = max(count * share_of(share) // 1, min(minimum, count))
    return _permutation("nested", count, seed)[: int(taken)]


def split(count: int, parts: Mapping[str, Share], seed: int) -> dict[str, list[int]]:
    """Draws disjoint parts of `count` records at random.

    Each part ends at floor(count · (sum of the shares so far)). So each part is within one record
    of its share, and shares that sum to 1 use every record once.

    >>> parts = split(101, {"train": "8/10", "validation": "1/10", "test": "1/10"}, seed=0)
    >>> {name: len(part) for name, part in parts.items()}
    {"train": 80, "validation": 10, "test": 11}

    Returns:
        part -> indices from 0 to count − 1, in ascending order.

    Raises:
        CorpusError: shares that sum to more than 1, a part without records, or an error of
            share_of.
    """
    shares = {name: share_of(share) for name, share in parts.items()}
    total = sum(shares.values())
    if total > 1:
        raise CorpusError(
            f"the shares of {', '.join(shares)} sum to {float(total):g}, expected at most 1."
        )
    # Cut at running sums, because rounding each share alone would lose records.
    order, done, drawn = _permutation("split", count, seed), Fraction(0), {}
    for name, share in shares.items():
        drawn[name] = sorted(order[int(count * done) : int(count * (done + share))])
        if not drawn[name]:
            raise CorpusError(
                f'part "{name}" gets none of {count} records at a share of {share}. '
                "Give it a larger share."
            )
        done += share
    return drawn


def _permutation(purpose: str, count: int, seed: int) -> list[int]:
    """Returns the numbers from 0 to count − 1 in random order."""
    # A text as the seed keeps the draws for different purposes apart. Python hashes it in the same
    # way on every machine.
    return Random(f"{purpose}/{seed}").sample(range(count), count)
