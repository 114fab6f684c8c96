"""Reading: what is known about the losses of a composition at one moment of its measurement.

A measurement has two sizes: a few examples of each dataset, or all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from workbench.session.loss_cache import Entry

if TYPE_CHECKING:
    from merging.recipe import Recipe

QUICK, FULL = "quick", "full"

QUICK_SECONDS = 0.12
"""Seconds for the quick losses of all datasets together, by the model's measured speed."""
QUICK_COUNTS = (2, 3, 4, 6, 8, 12)
"""The numbers of examples per dataset that may be taken; always the first ones.

Only a few numbers, so that a machine that is a little busier gives the same quick losses again.
"""
ENOUGH, PATIENT_SECONDS = 8, 2.0
"""This many examples are taken even if they take longer than QUICK_SECONDS, up to these seconds."""

Stage = Literal["preview", "composing", "measuring", "exact"]
"""How far a Reading is: "exact" is the last one, with all losses of the composed recipe."""


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


@dataclass(frozen=True)
class Reading:
    """What is known about a composition at one moment of its measurement.

    Attributes:
        recipe: the composition.
        stage: how far the measurement is.
        points: dataset -> its loss, as far as it is known.
        seconds: time since the measurement began.
    """

    recipe: Recipe
    stage: Stage
    points: Mapping[str, LossOnAxis] = field(default_factory=dict)
    seconds: float = 0.0
