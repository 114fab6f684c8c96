"""RunContext and Hooks: what trainer and callback share."""

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
    """What the trainer needs to know of a run."""

    stage: Stage
    data: Data
    order: Order
    pad: int
    state: State
    meter: StageMeter
    before: Spent
    """What the run had cost when it went on."""


class Hooks(NamedTuple):
    """Who is told, and who may stop it."""

    on_point: Callable[[CurvePoint, int], None]
    """Called with a point of the curve and the steps in all, on the main process."""
    should_stop: Callable[[], bool]
