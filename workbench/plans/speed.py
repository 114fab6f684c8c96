"""Speed: how fast a stage trains on this device, from the ledger or from a few timed steps."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from training.errors import TrainingError
from training.run import memory, record
from training.stage import Stage

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger
    from training.run.record import CurvePoint

How = Literal["measured", "timed"]
WAY = (
    "lora",
    "frozen",
    "precision",
    "checkpointing",
    "batch",
    "base_dtype",
    "attention",
    "optimiser",
    "packing",
    "liger",
)
"""Settings on which the speed depends, besides the base and the device."""
EARLIER = 5
"""How many earlier trainings count, the newest ones."""
TIMED = 4
"""How many steps are timed if no earlier training counts; the first one is a warm-up."""


class Speed(NamedTuple):
    """How fast a stage trains on this device.

    Attributes:
        tokens_per_second: while it trains, without padding.
        fixed: seconds besides: reading the base, writing, and validation if it was recorded.
        how: "measured" in earlier trainings, or "timed" on a few steps.
        of: number of earlier trainings, or of timed steps.
    """

    tokens_per_second: float
    fixed: float
    how: How
    of: int

    @property
    def source(self) -> str:
        """How the speed was found, in words for the user."""
        if self.how == "timed":
            return f"estimate, from {self.of} timed steps"
        return f"from {self.of} earlier training{'s' if self.of > 1 else ''} here"


def speed_from_ledger(stage: Stage, ledger: Ledger) -> Speed | None:
    """Returns the median speed of the newest comparable trainings, or None if there is none.

    Comparable trainings have the same model, device and settings WAY. A phase of the ledger says
    what a training cost, and the training.json in its folder how it was trained.
    """
    device, settings = _device(stage), record.settings(stage)
    rates, fixed = [], []
    for row in reversed(ledger.phases("training")):
        # Several processes share each step, so their pace says nothing about that of one process.
        if not row.complete or row.device != device or row.processes != 1:
            continue
        content = _training_record(Path(row.output))
        if content is None:
            continue
        known = record.with_defaults(content["settings"])
        if any(known[name] != settings[name] for name in WAY):
            continue
        pace = [
            point["tokens_per_second"]
            for point in content["curve"]
            if point.get("tokens_per_second")
        ]
        if pace and _same_model(content, Path(row.output), stage):
            # The median, because other programs on the machine slow down single steps.
            rates.append(statistics.median(pace))
            # The time that the tokens do not explain went into reading, validation and writing.
            spent = content["spent"]
            fixed.append(max(0.0, spent["wall_seconds"] - spent["tokens"] / rates[-1]))
        if len(rates) == EARLIER:
            break
    if not rates:
        return None
    return Speed(statistics.median(rates), statistics.median(fixed), "measured", len(rates))


def _training_record(folder: Path) -> dict[str, Any] | None:
    """Returns the training.json of a folder, or None if the folder was moved or replaced."""
    try:
        content: dict[str, Any] = json.loads((folder / record.NAME).read_text("utf-8"))
        return content if {"settings", "curve", "spent", "base"} <= content.keys() else None
    except (OSError, ValueError):
        return None


def _same_model(content: dict[str, Any], folder: Path, stage: Stage) -> bool:
    """Returns whether a training had the same base, or as many bytes of weights without LoRA."""
    recorded = content["base"]["identity"]
    if recorded == record.identity_like(stage.base, recorded):
        return True
    # A full fine-tune of as many bytes takes as long. The folder of an adapter holds no model whose
    # size could be compared.
    return stage.lora is None and memory.weights_on_disk(folder) == memory.weights_on_disk(
        stage.base
    )


class _Enough(Exception):
    """Ends the timed training once enough steps are timed."""


def time_steps(stage: Stage) -> Speed | None:
    """Returns the speed of a few steps of the real trainer, or None if the data fill no step.

    Nothing is kept: the training is aborted before it writes.
    """
    from training.run.finetune import run

    # The first step includes loading and warm-up, so it counts as fixed time, not as pace.
    begin, paces, first = time.perf_counter(), list[float](), 0.0

    def on_log(point: CurvePoint) -> None:
        nonlocal first
        if point.step == 1:
            first = time.perf_counter() - begin
        elif point.tokens_per_second:
            paces.append(point.tokens_per_second)
        if point.step == TIMED:
            raise _Enough

    # Without accumulation the pace is the same, and a timed step needs fewer examples.
    sample = shorten(replace(stage, accumulation=1), 8 * stage.batch)
    with tempfile.TemporaryDirectory(prefix="dem-") as folder:
        try:
            run(sample, Path(folder) / "timed", on_log=on_log)
        except _Enough:
            return Speed(statistics.median(paces), first, "timed", len(paces))
        # The plan itself was checked before; of these few examples too many are too long.
        except TrainingError:
            return None
    return None


def _device(stage: Stage) -> str:
    """Returns the ledger's name of the device that the stage will train on."""
    import torch

    from plumbing.meter import device_name

    return device_name(
        "cpu" if stage.device == "cpu" or not torch.cuda.is_available() else "cuda:0"
    )


def shorten(stage: Stage, examples: int) -> Stage:
    """Returns a stage of a few steps without validation, on some of the examples.

    Args:
        stage: the stage to shorten.
        examples: about how many examples to take, spread evenly over all of them.
    """
    every = max(1, len(stage.examples) // examples)
    return replace(
        stage,
        examples=stage.examples[::every][: max(examples, 1)],
        replay=stage.replay[:: max(1, len(stage.replay) // examples)],
        validation={},
        evaluate_every=None,
        keep="last",
        groups=None,
        group_weights=None,
        # Nobody wants to see the curve of a few steps beside those of trainings.
        report_to=(),
        # One more step than is timed, so that the run never ends by itself and writes a checkpoint.
        steps=TIMED + 1,
        epochs=None,
    )
