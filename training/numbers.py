"""Checks the numbers among the settings of a stage: each has its range."""

from __future__ import annotations

import math
from typing import Any

from training.errors import TrainingError


def check_numbers(settings: Any) -> None:
    """Checks each number by itself.

    Args:
        settings: has the fields of a Stage.

    Raises:
        TrainingError: a number is out of its range.
    """
    minimums = {
        "batch": 1,
        "accumulation": 1,
        "save_every": 1,
        "evaluate_every": 1,
        "patience": 1,
        "max_length": 2,
        "seed": 0,
    }
    for name, minimum in minimums.items():
        value = getattr(settings, name)
        # bool is a subclass of int, and `batch: true` is a mistake.
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < minimum
        ):
            raise TrainingError(f"{name} is {value!r}; expected a whole number, {minimum} or more.")
    for name, low, high in (
        ("warmup", 0, 1),
        ("decay", 0, math.inf),
        ("rate", 0, math.inf),
        ("beta1", 0, 1),
        ("beta2", 0, 1),
        ("clip", 0, math.inf),
        ("noise", 0, math.inf),
    ):
        value = getattr(settings, name)
        if value is None and name == "clip":
            continue
        # Written so that NaN, which compares False with every number, is outside.
        inside = low <= value <= high if name == "warmup" else low <= value < high
        positive = name in ("rate", "clip")
        if not inside or (positive and value == 0):
            limits = f"above {low}" if positive else f"at least {low}"
            upper = "" if high != 1 else " and at most 1" if name == "warmup" else " and below 1"
            raise TrainingError(f"{name} is {value!r}; expected a number {limits}{upper}.")
