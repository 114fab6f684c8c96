"""A loss between the two ends of its dataset's axis, and the two sizes of a measurement.

A measurement takes a few examples of each dataset, or all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.session.loss_cache import Entry

QUICK, FULL = "quick", "full"

QUICK_SECONDS = 0.09
"""Seconds for the quick losses of all datasets together, by the model's measured speed."""
QUICK_COUNTS = (2, 3, 4, 6, 8, 12)
"""The numbers of examples per dataset that may be taken; always the first ones.

Only a few numbers, so that a machine that is a little busier gives the same quick losses again.
"""
ENOUGH, PATIENT_SECONDS = 6, 2.0
"""This many examples are taken even if they take longer than QUICK_SECONDS, up to these seconds."""


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
