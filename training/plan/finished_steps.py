"""Looks into a plan's folder: finished steps are reused, and folders that differ are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from merging.inputs.sampled_digest import is_sampled
from training.plan.faults import Faults
from training.plan.schedules import Step, identity
from training.plan.step_origin import StepOrigin
from training.run import record
from training.run.saved_state import RUN, State
from training.stage import Stage

Standing = Literal["new", "begun", "done"]

PLAN, RECORD = "plan.yml", "plan.json"
"""Files of a plan's folder: the plan that was carried out last, and the list of its steps."""

NEUTRAL = ("save_every", "device", "checkpointing", "batch", "accumulation", "liger", "report_to")
"""Settings that change the result by rounding only.

Of batch and accumulation, only the product matters.
"""


def standing(
    out: Path,
    steps: Sequence[tuple[Step, Stage, StepOrigin]],
    processes: int,
    resume: bool,
    faults: Faults,
) -> dict[str, Standing]:
    """Returns the standing of each step: "done", "begun" with a saved state, or "new".

    Args:
        out: the plan's folder; it may not exist yet.
        steps: each step with its stage on the plan's base and its origin; parents come first.
        processes: number of processes that share each optimiser step.
        resume: whether unfinished steps may continue.
        faults: gets every folder that holds something other than its step.
    """
    if out.exists() and not out.is_dir():
        faults.add((), f"{out} is a file. Give a folder, or a name that is free.")
        return {step.name: "new" for step, _, _ in steps}
    standings: dict[str, Standing] = {}
    for step, stage, origin in steps:
        folder, state = out / step.name, State(out / step.name)
        wanted = settings_that_matter(record.settings(stage), record.digests(stage), processes)
        # Before the state: a process that is killed between the last two acts of a step leaves
        # both.
        if folder.exists():
            start = _starts(out, stage, origin, standings)
            if message := difference(folder, wanted, start):
                faults.add((), message)
            standings[step.name] = "done"
        elif state.newest() is not None:
            start = _starts(out, stage, origin, standings)
            _check_begun(state.folder, wanted, start, resume, faults)
            standings[step.name] = "begun"
        else:
            standings[step.name] = "new"
    return standings


def settings_that_matter(
    settings: Mapping[str, Any], data: Mapping[str, str], processes: int
) -> dict[str, Any]:
    """Selects the settings and data of a stage that change its weights.

    Args:
        settings: the settings as training.json holds them.
        data: name -> digest of each part of the data.
        processes: number of processes that share each step.

    Returns:
        These settings, the number of examples per step, and each digest as "data: <name>".
    """
    settings = record.with_defaults(settings)
    kept = {name: value for name, value in settings.items() if name not in NEUTRAL}
    parts = dict(data)
    # Validation draws no random number, so it changes the weights only if it chooses them.
    if settings["keep"] == "last":
        del kept["evaluate_every"]
        parts = {
            name: digest for name, digest in data.items() if not name.startswith("validation/")
        }
    kept["examples per step"] = settings["batch"] * settings["accumulation"] * processes
    return kept | {f"data: {name}": digest for name, digest in parts.items()}


def difference(folder: Path, wanted: Mapping[str, Any], start: Mapping[str, Path | None]) -> str:
    """Says why a folder does not hold the checkpoint of a step; empty if it does.

    Args:
        folder: the folder of a checkpoint.
        wanted: what changes the step's weights; see `settings_that_matter`.
        start: "base" and "adapter" -> folder of the weights that the step starts from, or None for
            no adapter. Weights that do not exist yet are left out.
    """
    advice = "Give another folder for this plan, or move that one away."
    try:
        document = json.loads((folder / record.NAME).read_text("utf-8"))
        trained_with = settings_that_matter(
            document["settings"], document["data"], document["spent"]["processes"]
        )
        started_from = {"base": document["base"], "adapter": document.get("adapter")}
        identities = {
            name: weights["identity"] if weights else None for name, weights in started_from.items()
        }
    # A folder of this name may hold anything, such as a training.json of another program.
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder} exists, and its {record.NAME} does not say how it was trained. {advice}"
    for name, weights_folder in start.items():
        if not _same(identities[name], weights_folder):
            other = {"base": "from other weights", "adapter": "from another adapter"}[name]
            its_name = started_from[name]["name"] if started_from[name] else "none"
            return f"{folder} exists, and was trained {other} ({its_name}). {advice}"
    changes = _differences(trained_with, wanted)
    if not changes:
        return ""
    return f"{folder} exists, and was trained with other settings or data: {changes}. {advice}"


def plan_identities(steps: Sequence[tuple[Step, Stage]], processes: int) -> dict[str, str]:
    """Returns the identity of each step: a SHA-256 of everything that determines its weights.

    It is known before any step is trained. Two plans have equal identities for the steps that
    they share.

    Args:
        steps: each step with its stage on the plan's base; parents come first.
        processes: number of processes that share each optimiser step.
    """
    identities: dict[str, str] = {}
    for step, stage in steps:
        parent = identities[step.parent] if step.parent else record.identity(stage.base)
        identities[step.name] = identity(
            parent,
            {},
            settings_that_matter(record.settings(stage), record.digests(stage), processes),
        )
    return identities


def by_samples(out: Path, name: str) -> bool:
    """Returns whether a step's record is of an earlier version, whose identities cover samples.

    Args:
        out: the plan's folder.
        name: a step that is done or begun there.
    """
    folder, state = out / name, State(out / name)
    if folder.exists():
        document = json.loads((folder / record.NAME).read_text("utf-8"))
        starts = [(document.get(key) or {}).get("identity") for key in ("base", "adapter")]
    else:
        begun = json.loads((state.folder / RUN).read_text("utf-8"))
        starts = [begun.get("base"), begun.get("adapter")]
    return any(is_sampled(start) for start in starts if start)


def _same(recorded: Any, folder: Path | None) -> bool:
    """Returns whether a recorded identity is that of a folder's weights; None stands for none."""
    if folder is None:
        return recorded is None
    # Another program's record may hold anything.
    return isinstance(recorded, str) and record.identity_like(folder, recorded) == recorded


def _starts(
    out: Path, stage: Stage, origin: StepOrigin, standings: Mapping[str, Standing]
) -> dict[str, Path | None]:
    """Returns the folders of the weights that a step starts from, if they exist already."""
    placed = origin.of(stage, out)
    starts = {"base": (origin.base, placed.base), "adapter": (origin.adapter, placed.adapter)}
    return {
        name: folder
        for name, (step, folder) in starts.items()
        if step is None or standings.get(step) == "done"
    }


def _check_begun(
    state: Path,
    wanted: Mapping[str, Any],
    start: Mapping[str, Path | None],
    resume: bool,
    faults: Faults,
) -> None:
    """Reports an unfinished step that may not continue, or that is not the wanted one."""
    begun = json.loads((state / RUN).read_text("utf-8"))
    if not resume:
        faults.add(
            (),
            f"{state}: a step was begun there and not finished. Resume it, or remove that folder.",
        )
    # run.json is flat: it holds settings, digests of data and identities side by side.
    data = {
        name: begun[name]
        for name in begun
        if name in ("examples", "replay", "groups") or "/" in name
    }
    settings = {
        name: value
        for name, value in begun.items()
        if name not in (*data, *record.START, "processes")
    }
    for name, folder in start.items():
        if not _same(begun.get(name), folder):
            faults.add(
                (),
                f"{state}: the unfinished step there started from another {name}. "
                "Remove that folder to begin anew.",
            )
    if changes := _differences(settings_that_matter(settings, data, begun["processes"]), wanted):
        faults.add(
            (),
            f"{state}: the unfinished step there has other settings or data: {changes}. "
            "Remove that folder to begin anew.",
        )


def _differences(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Lists what two results of `settings_that_matter` differ in; empty if they are equal."""
    pairs = [
        f"{name} was {before.get(name)}, is {wanted.get(name)}"
        if not name.startswith("data: ")
        else f"its {name.removeprefix('data: ')} are different"
        for name in sorted({*before, *wanted})
        if before.get(name) != wanted.get(name)
    ]
    return "; ".join(pairs)
