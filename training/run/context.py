"""RunContext and Hooks: the values that the trainer and its callback share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from training.batching.order import Order
from training.run.cost import Spent, StageMeter
from training.run.encode import Data
from training.run.record import CurvePoint
from training.run.saved_state import State
from training.stage import Stage


class RunContext(NamedTuple):
    """Everything that the trainer needs to know about a run."""

    stage: Stage
    data: Data
    order: Order
    pad: int
    """The token to pad with."""
    state: State
    meter: StageMeter
    """Measures the cost since this process began the run or resumed it."""
    before: Spent
    """The cost of the run up to the state from which it was resumed."""


class Hooks(NamedTuple):
    """The caller's functions that observe a run and can stop it."""

    on_point: Callable[[CurvePoint, int], None]
    """Called with a point of the curve and the number of steps in all, on the main process."""
    should_stop: Callable[[], bool]
    """Called after every step but the last; True saves the state and ends the run."""
