"""curve.jsonl in the folder of a training run: every point of every step's curve, written as it is known."""

from __future__ import annotations

import json
import os
from pathlib import Path

from training.run.record import CurvePoint

CURVE = "curve.jsonl"


def append(out: Path, step: str, point: CurvePoint) -> None:
    """Add a point to the file of a run's curves."""
    row = {"of": step} | {
        key: value for key, value in point._asdict().items() if value not in (None, {})
    }
    with (out / CURVE).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")  # a process was killed while it wrote a line
        file.write(json.dumps(row).encode() + b"\n")


def curves(out: Path) -> dict[str, list[CurvePoint]]:
    """Step -> its curve so far. What was trained again after a break stands there once, as it was last."""
    path = out / CURVE
    found: dict[str, list[CurvePoint]] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # half a line, of a process that was killed or that writes it now
            continue
        point = CurvePoint(**{key: value for key, value in row.items() if key != "of"})
        points = found.setdefault(row["of"], [])
        if points and points[-1].step == point.step and point.loss is None:
            points[-1] = points[-1]._replace(
                validation=point.validation
            )  # measured after the step, logged apart
            continue
        while points and points[-1].step >= point.step:
            points.pop()
        points.append(point)
    return found
