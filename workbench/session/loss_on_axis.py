"""A loss between the two ends of its dataset's axis, and the two sizes of a measurement.

A measurement takes a few examples of each dataset, or all of them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.session.loss_cache import Entry

QUICK, FULL = "quick", "full"

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


@dataclass(frozen=True)
class LossOnAxis:
    """The loss of one dataset, between the two ends of its axis; all on the same examples.

    Attributes:
        loss: loss of the composition.
        base: loss of the base, one end of the axis.
        expert: loss of the vector named like the dataset at ω = 1, the other end; None if no vector
            has this name.
        quick: whether only the first few examples were measured, of a larger dataset.
    """

    loss: Entry
    base: Entry
    expert: Entry | None
    quick: bool
