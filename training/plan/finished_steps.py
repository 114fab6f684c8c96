"""What stands in a plan's folder already: steps that are done are used again, what is something else is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from training.plan.faults import Faults
from training.plan.schedules import Step, identity
from training.plan.step_origin import StepOrigin
from training.run import record
from training.run.saved_state import RUN, State
from training.stage import Stage

Standing = Literal["new", "begun", "done"]

PLAN, RECORD = "plan.yml", "plan.json"
"""The plan that was carried out last, and all steps that the folder holds."""

NEUTRAL = ("save_every", "device", "checkpointing", "batch", "accumulation")
"""Settings with which a step comes out the same, but for the last bits; of a batch only the whole step counts."""


def standing(
    out: Path,
    steps: Sequence[tuple[Step, Stage, StepOrigin]],
    processes: int,
    resume: bool,
    faults: Faults,
) -> dict[str, Standing]:
    """For each step whether its folder is there, was begun and has a saved state, or is new.

    Args:
        out: the plan's folder.
        steps: with their stages, on the plan's base, and their origins; parents first.
        processes: how many share each optimiser step.
        resume: whether what was begun may go on.
        faults: get every folder that holds something else.
    """
    if out.exists() and not out.is_dir():
        faults.add((), f"{out} is a file. Give a folder, or a name that is free.")
        return {step.name: "new" for step, _, _ in steps}
    found: dict[str, Standing] = {}
    for step, stage, origin in steps:
        folder, state = out / step.name, State(out / step.name)
        wanted = settings_that_matter(record.settings(stage), record.digests(stage), processes)
        if folder.exists():
            if message := differs(folder, wanted, _start(out, stage, origin, found)):
                faults.add((), message)
            found[step.name] = "done"
        elif state.newest() is not None:
            _check_begun(state.folder, wanted, _start(out, stage, origin, found), resume, faults)
            found[step.name] = "begun"
        else:
            found[step.name] = "new"
    return found


def settings_that_matter(
    settings: Mapping[str, Any], data: Mapping[str, str], processes: int
) -> dict[str, Any]:
    """Of a stage's settings and data, what moves its weights.

    Args:
        settings: as training.json holds them.
        data: digests of its parts.
        processes: how many share each step.
    """
    kept = {name: value for name, value in settings.items() if name not in NEUTRAL}
    parts = dict(data)
    if settings["keep"] == "last":
        del kept["evaluate_every"]
        parts = {
            name: digest for name, digest in data.items() if not name.startswith("validation/")
        }
    kept["examples per step"] = settings["batch"] * settings["accumulation"] * processes
    return kept | {f"data: {name}": digest for name, digest in parts.items()}


def differs(folder: Path, wanted: Mapping[str, Any], start: Mapping[str, str | None]) -> str:
    """Why a folder is not what a step would make; empty where it is.

    Args:
        folder: a checkpoint.
        wanted: of the step, see moving.
        start: "base" and "adapter" -> identity of the weights that the step starts from, None for no adapter; left out
            where they are not there yet.
    """
    advice = "Give another folder for this plan, or move that one away."
    try:
        document = json.loads((folder / record.NAME).read_text("utf-8"))
        there = settings_that_matter(
            document["settings"], document["data"], document["spent"]["processes"]
        )
        came_from = {"base": document["base"], "adapter": document.get("adapter")}
        identities = {name: one["identity"] if one else None for name, one in came_from.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder} is there, and its {record.NAME} does not say how it was trained. {advice}"
    for name, begun in start.items():
        if identities[name] != begun:
            other = {"base": "from other weights", "adapter": "from another adapter"}[name]
            its_name = came_from[name]["name"] if came_from[name] else "none"
            return f"{folder} is there, and was trained {other} ({its_name}). {advice}"
    unlike = _unlike(there, wanted)
    return f"{folder} is there, and was trained otherwise: {unlike}. {advice}" if unlike else ""


def plan_identities(steps: Sequence[tuple[Step, Stage]], processes: int) -> dict[str, str]:
    """Step -> what its weights follow from, known before any is trained; equal in two plans for the steps they share."""
    found: dict[str, str] = {}
    for step, stage in steps:
        parent = found[step.parent] if step.parent else record.identity(stage.base)
        found[step.name] = identity(
            parent,
            {},
            settings_that_matter(record.settings(stage), record.digests(stage), processes),
        )
    return found


def _start(
    out: Path, stage: Stage, origin: StepOrigin, found: Mapping[str, Standing]
) -> dict[str, str | None]:
    """Identities of the weights that a step starts from, as far as they are there."""
    placed = origin.of(stage, out)
    starts = {"base": (origin.base, placed.base), "adapter": (origin.adapter, placed.adapter)}
    return {
        name: None if folder is None else record.identity(folder)
        for name, (step, folder) in starts.items()
        if step is None or found.get(step) == "done"
    }


def _check_begun(
    state: Path,
    wanted: Mapping[str, Any],
    start: Mapping[str, str | None],
    resume: bool,
    faults: Faults,
) -> None:
    known = json.loads((state / RUN).read_text("utf-8"))
    if not resume:
        faults.add(
            (),
            f"{state}: a step was begun there and not finished. Resume it, or remove that folder.",
        )
    data = {
        name: known[name]
        for name in known
        if name in ("examples", "replay", "groups") or "/" in name
    }
    settings = {
        name: value
        for name, value in known.items()
        if name not in (*data, *record.START, "processes")
    }
    for name, begun in start.items():
        if known.get(name) != begun:
            faults.add(
                (),
                f"{state}: what was begun there started from another {name}. Remove that folder to begin anew.",
            )
    if unlike := _unlike(settings_that_matter(settings, data, known["processes"]), wanted):
        faults.add(
            (),
            f"{state}: what was begun there is something else: {unlike}. Remove that folder to begin anew.",
        )


def _unlike(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    pairs = [
        f"{name} was {there.get(name)}, is {wanted.get(name)}"
        if not name.startswith("data: ")
        else f"its {name.removeprefix('data: ')} are others"
        for name in sorted({*there, *wanted})
        if there.get(name) != wanted.get(name)
    ]
    return "; ".join(pairs)
