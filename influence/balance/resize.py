"""Turns shares into numbers of examples, and numbers of examples into the examples themselves."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from corpus.subsets import nested
from influence.errors import InfluenceError


def apportion(shares: ArrayLike, total: int) -> list[int]:
    """Splits a total number of examples by shares, so that the parts sum to it exactly.

    Each domain gets the whole part of what is due to it; what is left goes, one example each, to
    the largest fractions (largest remainder), of equal ones to the first.

    >>> apportion([0.5, 0.3, 0.2], 9)  # 4.5, 2.7 and 1.8 are due
    [4, 3, 2]

    Args:
        shares: [n] numbers of 0 or more; only their ratios count.
        total: how many examples there are to give, 0 or more.

    Raises:
        InfluenceError: a share is negative or no finite number, all are 0, or total is below 0.
    """
    parts = np.asarray(shares, np.float64)
    if parts.ndim != 1 or not np.isfinite(parts).all() or (parts < 0).any() or not parts.sum():
        raise InfluenceError(
            f"the shares are {parts.tolist()}; expected one finite number of 0 or more for each "
            "domain, and one of them above 0. Give such shares."
        )
    if total < 0:
        raise InfluenceError(f"total is {total}; expected 0 or more examples. Give such a number.")
    # Rounding of shares such as 0.1 would otherwise turn a whole number that is due into one less.
    due = (parts / parts.sum() * total).round(9)
    sizes = np.floor(due)
    order = np.argsort(sizes - due, kind="stable")
    sizes[order[: total - int(sizes.sum())]] += 1
    return [int(size) for size in sizes]


def resized(count: int, size: int, seed: int) -> list[int]:
    """Draws `size` of `count` examples; each is used as often as any other, or once more.

    They are size // count full copies and size % count examples drawn without replacement, so a
    size of several times the count repeats no example more than it must. A smaller size is the
    beginning of a larger one's draw, and the same size gives the same examples.

    >>> resized(3, 3, seed=0), len(resized(3, 7, seed=0))
    ([0, 1, 2], 7)

    Args:
        count: how many examples the domain has.
        size: how many are wanted.
        seed: of the draw; give each round its own (training.plan.rounds.round_seed).

    Returns:
        Numbers of examples, ascending in each copy and in the drawn rest.

    Raises:
        InfluenceError: a size below 0, or examples wanted of a domain without any.
    """
    if count < 0 or size < 0 or (size and not count):
        raise InfluenceError(
            f"{size} examples are wanted of a domain with {count}; expected a size of 0 or more "
            "and at least one example to draw from. Leave the domain out, or add to it."
        )
    copies, rest = divmod(size, count) if count else (0, 0)
    drawn = nested(count, Fraction(rest, count), seed) if rest else []
    return [*range(count)] * copies + sorted(drawn)


def sizes_of(sizes: Sequence[int]) -> np.ndarray:
    """Returns the sizes of domains as [n] float64.

    Raises:
        InfluenceError: there are none, or one is below 1.
    """
    given = np.asarray(sizes, np.float64)
    if given.ndim != 1 or not given.size or not (given >= 1).all():
        raise InfluenceError(
            f"the sizes of the domains are {list(sizes)}; expected at least one domain, each with "
            "one example or more. Leave empty domains out."
        )
    return given
