"""Checks the steps of a plan on the real model: memory, parameter names, and the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from corpus import Record
from training.errors import TrainingError
from training.plan.faults import Faults
from training.run.setup import quiet, set_up
from training.run.shared import Shared
from training.stage import Stage


def check_on_model(
    stages: Sequence[tuple[Stage, tuple[int, Record]]], shared: Shared, faults: Faults
) -> None:
    """Prepares a first step for each way of training in a plan, and reports what is refused.

    The check computes three short rows, so stages that train in the same way share one. It uses
    the longest example of these stages, because that needs the most memory.

    Args:
        stages: each stage with the number of tokens of its longest example, and that example.
        shared: keeps the model for the first step.
        faults: gets what is refused.
    """
    ways: dict[str, tuple[Stage, tuple[int, Record]]] = {}
    for stage, longest in stages:
        # The settings on which the memory, the parameter names and the device depend, and those
        # that only the training's own parts can check.
        way = repr(
            (
                stage.lora,
                stage.frozen,
                stage.precision,
                stage.checkpointing,
                stage.batch,
                stage.device,
                stage.base_dtype,
                stage.attention,
                stage.optimiser,
                stage.packing,
                stage.liger,
                stage.report_to,
                stage.schedule,
                stage.schedule_options,
            )
        )
        if way not in ways or longest[0] > ways[way][1][0]:
            ways[way] = (stage, longest)
    for stage, (_, record) in ways.values():
        try:
            with quiet():
                set_up(stage_of_one(stage, record), shared, trains=False)
        except TrainingError as error:
            faults.add(("settings",), str(error))


def stage_of_one(stage: Stage, longest: Record) -> Stage:
    """Returns the stage reduced to one step on one example, without groups and validation."""
    return replace(
        stage,
        examples=(longest,),
        replay=(),
        replay_share=0.0,
        validation={},
        evaluate_every=None,
        keep="last",
        groups=None,
        group_weights=None,
        steps=1,
        epochs=None,
    )
