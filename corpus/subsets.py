"""Deterministic subsets that nest: 1/256 ⊂ 1/64 ⊂ … ⊂ 1, counted by floor.

The proportions and the counts are those of DMT's data-size study (arXiv 2310.05492, section 3). Worked examples:

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
    """A share as an exact fraction, 0 to 1. A decimal number is what is written: 0.7 is 7/10, not the nearest float.

    >>> share_of("1/256"), share_of(0.7)
    (Fraction(1, 256), Fraction(7, 10))

    Raises:
        CorpusError: not a number, or outside 0 to 1.
    """
    advice = 'Write a number from 0 to 1, such as 0.25 or "1/4".'
    try:
        if isinstance(value, bool) or not isinstance(value, (Fraction, str, int, float)):
            raise ValueError
        # repr of a float is the shortest decimal that means it: floor(10 · 0.7) is 7, where the binary value gives 6
        share = Fraction(Decimal(repr(value))) if isinstance(value, float) else Fraction(value)
    except (ValueError, OverflowError, ZeroDivisionError):
        raise CorpusError(f"{value!r} is not a share. {advice}") from None
    if not 0 <= share <= 1:
        raise CorpusError(f"a share of {value} is outside 0 to 1. {advice}")
    return share


def nested(count: int, share: Share, seed: int, minimum: int = 0) -> list[int]:
    """Indices of a share of `count` records: the first floor(count · share) of one permutation.

    The permutation depends on count and seed only, so a smaller share is the beginning of a larger one.

    Args:
        count: records in all.
        share: see Share.
        seed: another seed draws other records.
        minimum: at least so many, as far as there are any.

    Returns:
        Indices from 0 to count − 1 in the order of the permutation; sort them to keep the records' own order.

    Raises:
        CorpusError: a count or minimum below 0, or as share_of.
    """
    if count < 0 or minimum < 0:
        raise CorpusError(f"count is {count} and minimum {minimum}; both must be 0 or more.")
    taken = max(count * share_of(share) // 1, min(minimum, count))
    return _permutation("nested", count, seed)[: int(taken)]


def split(count: int, parts: Mapping[str, Share], seed: int) -> dict[str, list[int]]:
    """Disjoint parts of `count` records, drawn at random, each in ascending order.

    The parts end at floor(count · (sum of the shares so far)): each is within one record of its share, and shares that
    sum to 1 use every record once.

    >>> {name: len(part) for name, part in split(101, {"train": "8/10", "validation": "1/10", "test": "1/10"}, 0).items()}
    {"train": 80, "validation": 10, "test": 11}

    Raises:
        CorpusError: shares that sum to more than 1, a part that comes out empty, or as share_of.
    """
    shares = {name: share_of(share) for name, share in parts.items()}
    total = sum(shares.values())
    if total > 1:
        raise CorpusError(
            f"the shares of {', '.join(shares)} sum to {float(total):g}, expected at most 1."
        )
    order, done, made = _permutation("split", count, seed), Fraction(0), {}
    for name, share in shares.items():
        made[name] = sorted(order[int(count * done) : int(count * (done + share))])
        if not made[name]:
            raise CorpusError(
                f'part "{name}" gets none of {count} records at a share of {share}. Give it a larger share.'
            )
        done += share
    return made


def _permutation(purpose: str, count: int, seed: int) -> list[int]:
    # A text as seed keeps the draws for different purposes apart, and is hashed the same on every machine.
    return Random(f"{purpose}/{seed}").sample(range(count), count)
