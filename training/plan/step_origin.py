"""Decides from which weights, and from which adapter, each step of a plan starts.

parent      step        base of the step      adapter
full        full        the parent            none
full        LoRA        the parent            new; its vector is relative to the parent
LoRA        LoRA        the parent's base     the parent's, trained further: one adapter in the end
LoRA        full        refused, because an adapter cannot be the base of a full fine-tune
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from training.plan.schedules import Step
from training.run.lora import adapter_differences
from training.stage import Stage


class StepOrigin(NamedTuple):
    """The steps whose results a step starts from."""

    base: str | None = None
    """Name of the step whose folder is its base; None for the plan's base."""
    adapter: str | None = None
    """Name of the step whose adapter it continues; None for a new adapter or none."""

    def of(self, stage: Stage, out: Path) -> Stage:
        """Returns the stage with its base and adapter in the plan's folder.

        Args:
            stage: the stage on the plan's base.
            out: the plan's folder.
        """
        base = stage.base if self.base is None else out / self.base
        return replace(
            stage, base=base, adapter=None if self.adapter is None else out / self.adapter
        )


def origins(steps: Iterable[Step], adapters: Mapping[str, Any]) -> dict[str, StepOrigin]:
    """Returns the origin of each step, by the step's name.

    Args:
        steps: the steps of a plan, parents first.
        adapters: name of a step -> its adapter; falsy for a full fine-tune.
    """
    origin_of: dict[str, StepOrigin] = {}
    for step in steps:
        if step.parent is not None and adapters[step.parent] and adapters[step.name]:
            # A chain of adapters keeps the base of its first one, so that it ends in one adapter.
            origin_of[step.name] = StepOrigin(origin_of[step.parent].base, step.parent)
        else:
            origin_of[step.name] = StepOrigin(step.parent)
    return origin_of


def refusal(step: Step, adapters: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Says why a step cannot start from its parent; empty if it can.

    Args:
        step: any step of a plan.
        adapters: name of a step -> fields of its Lora; None for a full fine-tune.
    """
    before = adapters[step.parent] if step.parent is not None else None
    if not before:
        return ""
    now = adapters[step.name]
    if not now:
        return (
            f"step {step.name} is a full fine-tune and starts from {step.parent}, which trains a "
            "LoRA adapter. An adapter cannot be the base of a full fine-tune. "
            "Train both with the same lora, or both without."
        )
    if changes := adapter_differences(before, now):
        return (
            f"step {step.name} continues the LoRA adapter of {step.parent}, but with other "
            f"settings: {changes}. Give both steps the same lora."
        )
    return ""
