"""Writes and reads curve.jsonl, the training curves of a run, while the run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from training.run.record import CurvePoint

CURVE = "curve.jsonl"
"""File in the folder of a training run: one JSON object per point of the curve of any step."""


def append(out: Path, step: str, point: CurvePoint) -> None:
    """Adds a point to the curves of a run.

    Args:
        out: the folder of the run.
        step: name of the plan's step.
        point: one point of its curve.
    """
    row = {"of": step} | {
        key: value for key, value in point._asdict().items() if value not in (None, {})
    }
    with (out / CURVE).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            # A process that was killed left half a line: end it, so that only that line is lost.
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def curves(out: Path) -> dict[str, list[CurvePoint]]:
    """Returns step name -> its curve so far, in the order of the updates.

    Updates that were trained again after an interruption appear once, with their last values.
    """
    path = out / CURVE
    by_step: dict[str, list[CurvePoint]] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # half a line: its process was killed, or is writing it now
            continue
        point = CurvePoint(**{key: value for key, value in row.items() if key != "of"})
        points = by_step.setdefault(row["of"], [])
        # The validation loss is measured after the update and logged as a point of its own.
        if points and points[-1].step == point.step and point.loss is None:
            points[-1] = points[-1]._replace(validation=point.validation, accuracy=point.accuracy)
            continue
        # A resumed run starts at its last saved state, which may be before the last logged update.
        while points and points[-1].step >= point.step:
            points.pop()
        points.append(point)
    return by_step
