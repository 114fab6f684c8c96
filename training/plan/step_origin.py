"""What each step of a plan starts from: weights, and an adapter on them where both it and its parent train one.

parent      step        base of the step         adapter
whole       whole       the parent               none
whole       LoRA        the parent               fresh: its vector is relative to the parent, not to the plan's base
LoRA        LoRA        the parent's base        goes on from the parent's: one adapter in the end
LoRA        whole       refused: an adapter is no whole weights
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from training.plan.schedules import Step
from training.run.lora import unlike
from training.stage import Stage


class StepOrigin(NamedTuple):
    """Where a step starts."""

    base: str | None = None
    """Name of the step whose folder is its base; None for the plan's base."""
    adapter: str | None = None
    """Name of the step whose adapter it goes on with."""

    def of(self, stage: Stage, out: Path) -> Stage:
        """The stage, on the plan's base, as it is run in the plan's folder."""
        base = stage.base if self.base is None else out / self.base
        return replace(
            stage, base=base, adapter=None if self.adapter is None else out / self.adapter
        )


def origins(steps: Iterable[Step], adapters: Mapping[str, Any]) -> dict[str, StepOrigin]:
    """Step -> its origin.

    Args:
        steps: parents first.
        adapters: name of a step -> its adapter, falsy where it trains whole weights.
    """
    found: dict[str, StepOrigin] = {}
    for step in steps:
        if step.parent is not None and adapters[step.parent] and adapters[step.name]:
            found[step.name] = StepOrigin(found[step.parent].base, step.parent)
        else:
            found[step.name] = StepOrigin(step.parent)
    return found


def refusal(step: Step, adapters: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Why a step cannot start from its parent; empty where it can.

    Args:
        step: any step of a plan.
        adapters: name of a step -> fields of its Lora; None where it trains whole weights.
    """
    there = adapters[step.parent] if step.parent is not None else None
    if not there:
        return ""
    here = adapters[step.name]
    if not here:
        return (
            f"step {step.name} trains whole weights and starts from {step.parent}, which trains a LoRA adapter, and an "
            "adapter is no whole weights. Train both with the same lora, or both without."
        )
    if different := unlike(there, here):
        return (
            f"step {step.name} goes on with the LoRA adapter of {step.parent}, and that is another one: {different}. "
            "Give both the same lora."
        )
    return ""
