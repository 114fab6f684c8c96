"""How fast a model is measured: how many examples a moment is enough for, and what is left."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

QUICK_SECONDS = 0.09
"""Seconds for the quick losses of all datasets together, by the model's measured speed."""
QUICK_COUNTS = (2, 3, 4, 6, 8, 12)
"""The numbers of examples that may be taken of a dataset of average length; see quick_counts.

Only a few numbers, so that a machine that is a little busier gives the same quick losses again.
"""
ENOUGH, PATIENT_SECONDS = 6, 2.0
"""This many examples are taken even if they take longer than QUICK_SECONDS, up to these seconds."""


def quick_counts(lengths: Sequence[float], speed: float) -> list[int]:
    """Returns how many examples of each dataset the quick losses take; always the first ones.

    Of a dataset with short examples there are more, in proportion to 1/√length: for a given time
    this gives the mean over the datasets its smallest error, if the losses of single examples vary
    as much in all of them (Cochran, Sampling Techniques, 1977, theorem 5.6). A dataset of the
    length c̄, the mean over all datasets, would have one of QUICK_COUNTS examples: the most for
    which all datasets together take QUICK_SECONDS. On a slow model so few examples say little, so
    then up to ENOUGH are taken if they need no more than PATIENT_SECONDS.

    Worked example: lengths 400 and 100, and 9,250 positions per second, so 832 positions in
    QUICK_SECONDS and 18,500 in PATIENT_SECONDS. c̄ is 250. At 6 examples of length c̄ the datasets
    have 6·√(250/400) ≈ 5 and 6·√(250/100) ≈ 9 examples, 2,900 positions: so (5, 9) are taken.

    Args:
        lengths: the mean number of token positions of the examples of each dataset.
        speed: token positions per second that the model computes.
    """
    mean = sum(lengths) / len(lengths)

    def counts(level: int) -> list[int]:
        fewest = QUICK_COUNTS[0]
        return [max(fewest, round(level * math.sqrt(mean / length))) for length in lengths]

    chosen = counts(QUICK_COUNTS[0])
    for level in QUICK_COUNTS[1:]:
        more = counts(level)
        seconds = sum(map(operator.mul, more, lengths)) / speed
        if seconds > (PATIENT_SECONDS if level <= ENOUGH else QUICK_SECONDS):
            break
        chosen = more
    return chosen


RECENT = 10.0
"""Seconds of computing after which all before counts half, because a machine's load changes."""


class Throughput:
    """How long a model takes to be composed, and to compute a token position."""

    def __init__(self) -> None:
        self._composing = 0.0
        self._seconds, self._positions = 0.0, 0.0

    def composed(self, seconds: float) -> None:
        """Takes in the seconds that a composition took."""
        # The longest counts: a composition that stands already takes none.
        self._composing = max(self._composing, seconds)

    def measured(self, positions: int, seconds: float) -> None:
        """Takes in the seconds in which so many token positions were computed."""
        self._positions += positions
        self._seconds += seconds
        if self._seconds > RECENT:
            self._positions /= 2
            self._seconds /= 2

    def seconds(self, compositions: int, positions: int) -> float | None:
        """Returns the seconds that so much work will take; None before anything was measured.

        Worked example: a composition took 2 s, and 100 positions 5 s. Two compositions with 300
        positions in all will take 2 · 2 + 300 · 5/100 = 19 s.

        Args:
            compositions: how many are still to be composed.
            positions: how many token positions are still to be computed, with padding.
        """
        if not self._positions:
            return None
        return compositions * self._composing + positions * self._seconds / self._positions


class Measuring(NamedTuple):
    """How far a measurement is.

    Attributes:
        composition: number of the composition that is being measured, from 1.
        compositions: how many are measured in all; those that were known are left out.
        seconds: seconds that are left; None if not known.
    """

    composition: int
    compositions: int
    seconds: float | None
