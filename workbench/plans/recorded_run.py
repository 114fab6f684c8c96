"""A plan carried out so that others can watch: its curve in a file, its cost in the ledger, one process at a time.

`dem train` calls this, and the page runs `dem train`. The folder of a run holds what training.plan.carry_out says, and

    curve.jsonl     every point of every step's curve, written as it is known
    running.json    the process that trains in the folder now
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.run import record
from training.run.cost import Spent
from training.run.record import CurvePoint
from training.run.saved_state import RUN, State
from workbench.commands import display_path
from workbench.errors import SessionError
from workbench.plans.curve import append
from workbench.processes import RUNNING, running, this_process

if TYPE_CHECKING:
    from corpus import Record
    from evaluation.records.ledger import Ledger
    from training.plan.carry_out import Made, Moment
    from training.plan.plan import Plan

AMOUNTS = ("wall_seconds", "device_seconds", "examples", "tokens", "supervised")
"""Fields of Spent that add up; they have the same names in a row of the ledger."""


@dataclass(frozen=True)
class Watcher:
    """Who is told while a plan is carried out, and who may stop it. In all processes but the main one nobody is told.

    Attributes:
        on_moment: called as the training goes.
        on_point: called with the name of a step and each point of its curve.
        on_step: called with each step that was trained now, when it is done.
        should_stop: asked after every update; True saves the whole state and ends.
    """

    on_moment: Callable[[Moment], None] = lambda moment: None
    on_point: Callable[[str, CurvePoint], None] = lambda step, point: None
    on_step: Callable[[Made], None] = lambda made: None
    should_stop: Callable[[], bool] = lambda: False


def run_recorded(
    plan: Plan, out: Path, watcher: Watcher, *, resume: bool = False, ledger: Ledger | None = None
) -> list[Made]:
    """training.plan.carry_out.run_plan, with the curve in a file and each finished or broken-off part in the ledger.

    Args:
        plan, out, resume: see run_plan.
        watcher: who is told.
        ledger: where the cost is written.

    Raises:
        PlanError, TrainingError, Stopped: see run_plan.
        SessionError: another process trains into this folder.
    """
    from training.plan.carry_out import run_plan

    main = os.environ.get("RANK", "0") == "0"
    _refuse_company(out)
    before = _begun(out)
    claimed = False

    def should_stop() -> bool:
        nonlocal claimed
        if main and not claimed:  # asked first when all was looked at and the folder is there
            (out / RUNNING).write_text(json.dumps(this_process()), "utf-8")
            claimed = True
        return watcher.should_stop()

    def on_log(step: str, point: CurvePoint) -> None:
        append(out, step, point)
        watcher.on_point(step, point)

    def on_step(made: Made) -> None:
        if main:
            if ledger is not None:
                _write(
                    ledger,
                    made.ready.name,
                    made.folder,
                    made.spent,
                    before.pop(made.ready.name, None),
                )
            watcher.on_step(made)

    def on_moment(moment: Moment) -> None:
        if main:
            watcher.on_moment(moment)

    try:
        return run_plan(
            plan, out, on_moment, should_stop, resume, on_log=on_log, on_step=on_step, states=states
        )
    finally:
        if claimed:
            (out / RUNNING).unlink(missing_ok=True)
        if main and ledger is not None:
            for name, spent in _begun(out).items():
                if spent != before.get(name):
                    _write(
                        ledger, name, State(out / name).folder, spent, before.get(name), out / name
                    )


def states(records: Sequence[Record], base: Path, layer: int | None) -> Any:
    """Mean hidden states of records in a model, for group_by: see training.plan.grouping.States.

    Raises:
        SessionError: a record does not fit into the model's context.
    """
    from evaluation.hidden_states import hidden_states
    from evaluation.loss import prepare
    from evaluation.model import load
    from merging import Checkpoint

    loaded = load(base, checkpoint=Checkpoint(base))
    whole: Any = list(records)  # chats are encoded as well
    prepared = prepare({"records": whole}, loaded.tokenizer)
    if prepared.dropped["records"]:
        raise SessionError(
            f"{prepared.dropped['records']} of {len(records)} records, anchors among them, are longer than the model's "
            "context, so that they have no states. Take encoder: tfidf."
        )
    return hidden_states(loaded.module, prepared, -1 if layer is None else layer).vectors


def digest(folder: Path) -> str:
    """Of what decides a step's weights, from training.json of a finished step or run.json of an unfinished one."""
    import hashlib

    from training.plan.finished_steps import settings_that_matter

    finished = folder / record.NAME
    known = json.loads((finished if finished.exists() else folder / RUN).read_text("utf-8"))
    if finished.exists():
        settings, data, base = known["settings"], known["data"], known["base"]["identity"]
        adapter, processes = (
            (known.get("adapter") or {}).get("identity"),
            known["spent"]["processes"],
        )
    else:
        data = {
            name: known[name]
            for name in known
            if name in ("examples", "replay", "groups") or "/" in name
        }
        base, adapter, processes = known["base"], known.get("adapter"), known["processes"]
        settings = {
            name: known[name] for name in known if name not in (*data, *record.START, "processes")
        }
    parts = [base, settings_that_matter(settings, data, processes), *([adapter] if adapter else [])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _begun(out: Path) -> dict[str, Spent]:
    """Step -> what it has cost up to its last whole state, for each that was begun and not finished."""
    names = [
        folder.name.removesuffix(".training")
        for folder in sorted(out.glob("*.training"))
        if (folder / RUN).exists()
    ]
    found = {name: State(out / name) for name in names}
    return {
        name: state.spent(newest, "training")
        for name, state in found.items()
        if (newest := state.newest()) is not None
    }


def _write(
    ledger: Ledger,
    name: str,
    folder: Path,
    spent: Spent,
    before: Spent | None,
    made: Path | None = None,
) -> None:
    """One row for the part of a step that the ledger does not hold yet.

    Args:
        ledger: where to.
        name: of the step.
        folder: holds what was trained, or the state of what is not finished.
        spent: of the step in all, earlier parts included.
        before: the same when this part began; None where it began anew.
        made: the folder that will be there, for a step that is not finished.
    """
    key, output = digest(folder), str((made or folder).resolve())
    rows = [
        row
        for row in ledger.phases("training", digest=key)
        if (row.name, row.output) == (name, output)
    ]
    ends = [place for place, row in enumerate(rows) if row.complete]
    open_rows = rows[ends[-1] + 1 if ends else 0 :]
    amounts = {}
    for amount in AMOUNTS:
        known = sum(
            getattr(row, amount) or 0 for row in open_rows
        )  # with those of a try that was thrown away
        earlier = min(known, getattr(before, amount)) if before is not None else 0
        amounts[amount] = max(0, getattr(spent, amount) - earlier)
    more = {
        one.name: getattr(spent, one.name)
        for one in fields(spent)
        if one.name in ("peak_bytes", "device", "processes")
    }
    ledger.add(
        "training", name, **amounts, **more, digest=key, output=output, complete=made is None
    )


def _refuse_company(out: Path) -> None:
    if pid := running(out):
        raise SessionError(
            f"{display_path(out)}: process {pid} trains there now. Wait for it or stop it, or give another folder."
        )
