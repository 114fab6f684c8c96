"""How fast a way of training is on this device: from earlier trainings in the ledger, else from a few timed steps."""

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
WAY = ("lora", "frozen", "precision", "checkpointing", "batch")
"""Settings on which the speed depends; the base and the device are the others."""
EARLIER = 5
"""So many earlier trainings, the newest, say how fast the next will be."""
TIMED = 4
"""Steps that are timed where there is no earlier one; the first is not counted."""


class Speed(NamedTuple):
    """How fast a way of training is on this device."""

    tokens_per_second: float
    """While it trains, without padding."""
    fixed: float
    """Seconds beside that: reading the base, validation where it was measured, writing."""
    how: How
    of: int
    """Earlier trainings, or timed steps."""

    @property
    def source(self) -> str:
        """Where this is known from, for a reader."""
        if self.how == "timed":
            return f"estimate, from {self.of} timed steps"
        return f"from {self.of} earlier training{'s' if self.of > 1 else ''} here"


def measured(stage: Stage, ledger: Ledger) -> Speed | None:
    """The speed of the newest trainings in a ledger that went the same way on this device; None where none did.

    A row of the ledger says what was paid, and the training.json in its folder how it was trained.
    """
    device, settings = _device(stage), record.settings(stage)
    rates, rest = [], []
    for row in reversed(ledger.phases("training")):
        if not row.complete or row.device != device or row.processes != 1:
            continue
        known = _recorded(Path(row.output))
        if known is None or any(known["settings"].get(name) != settings[name] for name in WAY):
            continue
        pace = [
            point["tokens_per_second"] for point in known["curve"] if point.get("tokens_per_second")
        ]
        if pace and _same_model(known, Path(row.output), stage):
            rates.append(statistics.median(pace))
            rest.append(
                max(0.0, known["spent"]["wall_seconds"] - known["spent"]["tokens"] / rates[-1])
            )
        if len(rates) == EARLIER:
            break
    return (
        Speed(statistics.median(rates), statistics.median(rest), "measured", len(rates))
        if rates
        else None
    )


def _recorded(folder: Path) -> dict[str, Any] | None:
    """The training.json of a folder; None where the folder was moved or holds something else by now."""
    try:
        known: dict[str, Any] = json.loads((folder / record.NAME).read_text("utf-8"))
        return known if {"settings", "curve", "spent", "base"} <= known.keys() else None
    except (OSError, ValueError):
        return None


def _same_model(known: dict[str, Any], folder: Path, stage: Stage) -> bool:
    """Whether a training was of the same base, or of weights of the same number."""
    if known["base"]["identity"] == record.identity(stage.base):
        return True
    return stage.lora is None and memory.weights_on_disk(folder) == memory.weights_on_disk(
        stage.base
    )


class _Enough(Exception):
    """The steps are timed."""


def timed(stage: Stage) -> Speed | None:
    """The speed of a few steps of the real trainer on the real model; None where the data do not fill one.

    What it makes is thrown away: the run is broken off before anything is written.
    """
    from training.run.finetune import run

    begin, paces, first = time.perf_counter(), list[float](), 0.0

    def on_log(point: CurvePoint) -> None:
        nonlocal first
        if point.step == 1:
            first = time.perf_counter() - begin
        elif point.tokens_per_second:
            paces.append(point.tokens_per_second)
        if point.step == TIMED:
            raise _Enough

    some = shortened(replace(stage, accumulation=1), 8 * stage.batch)
    with tempfile.TemporaryDirectory(prefix="dem-") as place:
        try:
            run(some, Path(place) / "timed", on_log=on_log)
        except _Enough:
            return Speed(statistics.median(paces), first, "timed", len(paces))
        except TrainingError:  # of so few examples too many are too long; all that the plan itself is refused for was asked
            return None
    return None


def _device(stage: Stage) -> str:
    """What the ledger calls the device that the stage will have."""
    import torch

    from plumbing.meter import device_name

    return device_name(
        "cpu" if stage.device == "cpu" or not torch.cuda.is_available() else "cuda:0"
    )


def shortened(stage: Stage, examples: int) -> Stage:
    """The stage on some of its examples, spread over all of them, for a few steps without validation."""
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
        steps=TIMED + 1,
        epochs=None,
    )
