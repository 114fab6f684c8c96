"""Builds training.json: the record of a training, enough to repeat it and identify its inputs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from corpus.counts import Counts
from corpus.records import digest
from merging.errors import MergingError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.sampled_digest import is_sampled, sampled_identity
from training.errors import TrainingError
from training.run.cost import Spent
from training.stage import Stage

NAME = "training.json"
"""Name of the file, which is beside the weights."""

DATA = ("examples", "validation", "replay", "groups")
"""Fields of a Stage that are recorded by their digest."""

START = ("base", "base_name", "adapter")
"""Fields of a Stage that are recorded by the identity of the weights."""

_MODELS, _ADAPTER = (
    ("model.safetensors", "model.safetensors.index.json"),
    "adapter_model.safetensors",
)


class CurvePoint(NamedTuple):
    """One point of the loss curve of a training."""

    step: int
    loss: float | None = None
    """Mean since the previous point, nats per supervised token; None for validation alone."""
    rate: float | None = None
    """Learning rate of the step."""
    tokens_per_second: float | None = None
    """Without padding, and without the time for validation and saving."""
    validation: Mapping[str, float] = {}
    """Name of a validation set -> nats per supervised token."""
    accuracy: Mapping[str, float] = {}
    """Name of a validation set -> share of its supervised tokens that were the likeliest ones."""

    def validation_text(self) -> str:
        """Returns the validation losses in words: "math 1.234 (41 % of tokens right), …"."""
        words = []
        for name, loss in self.validation.items():
            right = self.accuracy.get(name)
            share = "" if right is None else f" ({100 * right:.0f} % of tokens right)"
            words.append(f"{name} {loss:.3f}{share}")
        return ", ".join(words)


def settings(stage: Stage) -> dict[str, Any]:
    """Returns a stage's fields as JSON values, without its data, its base and its adapter."""
    values = {
        field.name: getattr(stage, field.name)
        for field in fields(stage)
        if field.name not in (*DATA, *START)
    }
    values["lora"] = asdict(stage.lora) if stage.lora else None
    # Tuples become lists, so that the result equals what is read back from training.json.
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def with_defaults(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns recorded settings with those that an earlier version did not have yet."""
    defaults: dict[str, Any] = {}
    for field in fields(Stage):
        if field.name not in (*DATA, *START):
            if field.default_factory is not MISSING:
                defaults[field.name] = field.default_factory()
            elif field.default is not MISSING:
                defaults[field.name] = field.default
    return defaults | dict(recorded)


def digests(stage: Stage) -> dict[str, str]:
    """Returns the SHA-256 of each part of a stage's data; the order of the records counts.

    The parts are "examples", "replay", "validation/<name>", and "groups" if the stage has groups.
    """
    parts = {"examples": digest(stage.examples), "replay": digest(stage.replay)}
    parts |= {f"validation/{name}": digest(records) for name, records in stage.validation.items()}
    if stage.groups is not None:
        parts["groups"] = hashlib.sha256(repr(stage.groups).encode()).hexdigest()
    return parts


def identity(folder: Path) -> str:
    """Returns the digest of the weights in a folder; see merging.inputs.checkpoint.

    It covers every tensor, and is the same for the same weights in other files. The weights are
    the model's, or the adapter's if the folder holds no model.

    Raises:
        TrainingError: the folder holds no weights, or they cannot be read.
    """
    model = any((folder / name).exists() for name in _MODELS)
    adapter = _ADAPTER if (folder / _ADAPTER).exists() and not model else None
    try:
        return Checkpoint(folder, file=adapter).digest
    except MergingError as error:
        raise TrainingError(str(error)) from None


def identity_like(folder: Path, recorded: str) -> str:
    """Returns the identity of a folder, to be compared with a recorded one.

    An earlier version recorded a digest of samples; then that of the folder's samples is returned.
    """
    return sampled_identity(folder) if is_sampled(recorded) else identity(folder)


def document(
    stage: Stage,
    counts: Mapping[str, Counts],
    spent: Spent,
    curve: Sequence[CurvePoint],
    best_step: int | None,
    computed_in: str,
) -> dict[str, Any]:
    """Returns the content of training.json.

    Args:
        stage: the stage that was trained.
        counts: "examples", "replay" or "validation/<name>" -> used and left-out records.
        spent: cost of the training.
        curve: points of its loss curve.
        best_step: step of the weights that were written.
        computed_in: dtype of most products, which precision alone does not tell.
    """
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
        "counts": {name: asdict(part) for name, part in counts.items()},
        "kept_step": best_step,
        "computed_in": computed_in,
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
    """Returns the point of the curve in an entry of the trainer's log; None if it has no loss.

    Args:
        logs: name -> value, as the trainer logs them.
        step: the step of the entry.
    """
    validation, accuracy = (
        {key.partition("/")[2]: value for key, value in logs.items() if key.startswith(f"{kind}/")}
        for kind in ("validation", "accuracy")
    )
    if "loss" not in logs and not validation:
        return None
    rate, speed = logs.get("learning_rate"), logs.get("tokens_per_second")
    return CurvePoint(step, logs.get("loss"), rate, speed, validation, accuracy)


def curve(history: Sequence[Mapping[str, Any]]) -> tuple[CurvePoint, ...]:
    """Returns the points of the curve in a trainer's log, one per step."""
    points: dict[int, CurvePoint] = {}
    for logs in history:
        point = curve_point(logs, logs["step"])
        if point is not None:
            # The trainer logs the training loss and the validation of a step as two entries.
            old = points.get(point.step, point)
            points[point.step] = (
                old._replace(validation=point.validation, accuracy=point.accuracy)
                if point.validation
                else point
            )
    return tuple(points.values())
