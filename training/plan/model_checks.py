"""What only the model can tell of a plan's steps: memory, names that match nothing, a device that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from corpus import Record
from training.errors import TrainingError
from training.plan.faults import Faults
from training.run.setup import make_ready, quiet
from training.stage import Stage


def check_on_model(stages: Sequence[tuple[Stage, tuple[int, Record]]], faults: Faults) -> None:
    """Makes the first step ready once for each way of training that the plan has, on the longest example of its stages.

    Args:
        stages: each with the tokens of its longest example, and that example.
        faults: get what is refused.
    """
    ways: dict[str, tuple[Stage, tuple[int, Record]]] = {}
    for stage, longest in stages:
        way = repr(
            (
                stage.lora,
                stage.frozen,
                stage.precision,
                stage.checkpointing,
                stage.batch,
                stage.device,
            )
        )
        if way not in ways or longest[0] > ways[way][1][0]:
            ways[way] = (stage, longest)
    for stage, (_, record) in ways.values():
        try:
            with quiet():
                make_ready(_alone(stage, record))
        except TrainingError as error:
            faults.add(("settings",), str(error))


def _alone(stage: Stage, longest: Record) -> Stage:
    """The stage on one example, for one step."""
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
