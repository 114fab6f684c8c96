"""What training.json says of a checkpoint: enough to repeat the run, and to know what it came from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from corpus.counts import Counts
from corpus.records import Record, row
from training.run.cost import Spent
from training.stage import Stage

NAME = "training.json"
"""Beside the weights."""

DATA = ("examples", "validation", "replay", "groups")
"""Fields of a Stage that are given by their digest."""

START = ("base", "base_name", "adapter")
"""Fields of a Stage that are given by the identity of the weights."""

PIECES, PIECE = 16, 4096
"""How many bytes of each file of weights make its identity, and of what size: cheap at any size of file."""


class CurvePoint(NamedTuple):
    """One place on the curve of a training."""

    step: int
    loss: float | None = None
    """Nats per supervised token, the mean since the point before; None where only validation was measured."""
    rate: float | None = None
    """Learning rate of the step."""
    tokens_per_second: float | None = None
    """Without padding; the time for validation and saving is not in it."""
    validation: Mapping[str, float] = {}
    """By dataset, nats per supervised token."""


def settings(stage: Stage) -> dict[str, Any]:
    """The fields of a stage that are not data and not what it starts from, as JSON."""
    found = {
        one.name: getattr(stage, one.name)
        for one in fields(stage)
        if one.name not in (*DATA, *START)
    }
    found["lora"] = asdict(stage.lora) if stage.lora else None
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def digests(stage: Stage) -> dict[str, str]:
    """SHA-256 of each part of a stage's data, in its order."""
    found = {"examples": digest(stage.examples), "replay": digest(stage.replay)}
    found |= {f"validation/{name}": digest(records) for name, records in stage.validation.items()}
    if stage.groups is not None:
        found["groups"] = hashlib.sha256(repr(stage.groups).encode()).hexdigest()
    return found


def digest(records: Iterable[Record]) -> str:
    """SHA-256 over the records as JSON lines: what they say and their order."""
    found = hashlib.sha256()
    for record in records:
        found.update(json.dumps(row(record), sort_keys=True).encode() + b"\n")
    return found.hexdigest()


def identity(folder: Path) -> str:
    """SHA-256 over names, sizes and small pieces of a checkpoint's files of weights: two fine-tunes of one base differ."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        found.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as opened:
            for number in range(PIECES):
                opened.seek(max(0, size - PIECE) * number // (PIECES - 1))
                found.update(opened.read(PIECE))
    return found.hexdigest()


def document(
    stage: Stage,
    counts: Mapping[str, Counts],
    spent: Spent,
    curve: Sequence[CurvePoint],
    best_step: int | None,
) -> dict[str, Any]:
    """What training.json holds."""
    return {
        "base": {
            "name": stage.base_name or stage.base.as_posix(),
            "identity": identity(stage.base),
        },
        "adapter": {"name": stage.adapter.as_posix(), "identity": identity(stage.adapter)}
        if stage.adapter
        else None,
        "settings": settings(stage),
        "data": digests(stage),
        "counts": {name: asdict(one) for name, one in counts.items()},
        "kept_step": best_step,
        "spent": asdict(spent),
        "curve": [
            {key: value for key, value in point._asdict().items() if value not in (None, {})}
            for point in curve
        ],
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "accelerate", "peft")
        },
    }


def curve_point(logs: Mapping[str, Any], step: int) -> CurvePoint | None:
    """The point of the curve that an entry of the trainer's log is; None where it is none."""
    validation = {
        key.partition("/")[2]: loss for key, loss in logs.items() if key.startswith("validation/")
    }
    if "loss" not in logs and not validation:
        return None
    return CurvePoint(
        step, logs.get("loss"), logs.get("learning_rate"), logs.get("tokens_per_second"), validation
    )


def curve(history: Sequence[Mapping[str, Any]]) -> tuple[CurvePoint, ...]:
    """The points of a trainer's log, one per step."""
    points: dict[int, CurvePoint] = {}
    for logs in history:
        point = curve_point(logs, logs["step"])
        if point is not None:
            old = points.get(point.step, point)
            points[point.step] = (
                old._replace(validation=point.validation) if point.validation else point
            )
    return tuple(points.values())
