"""run_recorded: carries out a plan with its curve in a file and its cost in the ledger.

`dem train` calls this, and the page runs `dem train`. One process at a time trains in a folder.
Besides the files of training.plan.carry_out, the folder of a run holds

    curve.jsonl     every point of every step's curve, written as soon as it is known
    running.json    the process that trains in the folder now
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.run import record
from training.run.cost import Spent
from training.run.launch import is_main
from training.run.record import CurvePoint
from training.run.saved_state import RUN, State
from workbench.commands import display_path
from workbench.errors import SessionError
from workbench.plans.curve import append
from workbench.processes import RUNNING, running_process, this_process

if TYPE_CHECKING:
    from corpus import Record
    from evaluation.records.ledger import Ledger
    from training.plan.carry_out import Made, Moment
    from training.plan.plan import Plan

AMOUNTS = ("wall_seconds", "device_seconds", "examples", "tokens", "supervised")
"""Fields of Spent that add up over the parts of a step; a phase of the ledger has them as well."""


@dataclass(frozen=True)
class Watcher:
    """The callbacks of a run. Of several training processes, only the main one reports.

    Attributes:
        on_moment: called with the progress after every update.
        on_point: called with the name of a step and each new point of its curve.
        on_step: called with each step that this run finished.
        should_stop: asked after every update; True saves the whole state and ends the run.
    """

    on_moment: Callable[[Moment], None] = lambda moment: None
    on_point: Callable[[str, CurvePoint], None] = lambda step, point: None
    on_step: Callable[[Made], None] = lambda made: None
    should_stop: Callable[[], bool] = lambda: False


def run_recorded(
    plan: Plan, out: Path, watcher: Watcher, *, resume: bool = False, ledger: Ledger | None = None
) -> list[Made]:
    """Runs training.plan.carry_out.run_plan and records the curve and the cost.

    Each finished step and each interrupted part of a step becomes a phase of the ledger.

    Args:
        plan, out, resume: see run_plan.
        watcher: the callbacks.
        ledger: where the cost is written, or None.

    Returns:
        What run_plan returns.

    Raises:
        PlanError, TrainingError, Stopped: see run_plan.
        SessionError: another process trains in this folder.
    """
    from training.plan.carry_out import run_plan

    # accelerate launch runs this in one process per device, and a step is to have one row.
    main = is_main()
    _refuse_other_process(out)
    # Read now, because the run replaces the saved states, and `_write` must not count their cost
    # twice.
    before = _spent_so_far(out)
    claimed = False

    def should_stop() -> bool:
        nonlocal claimed
        # First asked when the plan has been checked and the folder made, so it is claimed here.
        if main and not claimed:
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
            # An interrupted step costs what its last saved state says; a later part adds the rest.
            for name, spent in _spent_so_far(out).items():
                if spent != before.get(name):
                    _write(
                        ledger, name, State(out / name).folder, spent, before.get(name), out / name
                    )


def states(records: Sequence[Record], base: Path, layer: int | None) -> Any:
    """Returns the mean hidden states of records in a model, for group_by.

    Args:
        records: the records to group.
        base: folder of the model.
        layer: the layer to read, or None for the last one.

    Returns:
        Float array of shape (records, hidden size); see training.plan.grouping.States.

    Raises:
        SessionError: a record is longer than the model's context.
    """
    from evaluation.hidden_states import hidden_states
    from evaluation.model import load
    from evaluation.prepared import prepare
    from merging import Checkpoint

    loaded = load(base, checkpoint=Checkpoint(base))
    # Any: prepare() is typed for examples, and encodes chats as well.
    untyped: Any = list(records)
    prepared = prepare({"records": untyped}, loaded.tokenizer)
    if prepared.dropped["records"]:
        raise SessionError(
            f"{prepared.dropped['records']} of {len(records)} records, anchors included, are "
            "longer than the model's context, so they have no states. Use encoder: tfidf."
        )
    return hidden_states(loaded.module, prepared, -1 if layer is None else layer).vectors


def digest(folder: Path) -> str:
    """Returns a digest of everything that decides the weights of a step.

    It is read from training.json of a finished step or run.json of an unfinished one, and is equal
    for both.

    Args:
        folder: the folder of the step, or of its training state.

    Returns:
        The first 16 hexadecimal digits of a SHA-256.
    """
    import hashlib

    from training.plan.finished_steps import settings_that_matter

    finished = folder / record.NAME
    content = json.loads((finished if finished.exists() else folder / RUN).read_text("utf-8"))
    if finished.exists():
        settings, data, base = content["settings"], content["data"], content["base"]["identity"]
        adapter = (content.get("adapter") or {}).get("identity")
        processes = content["spent"]["processes"]
    else:
        # run.json is flat: digests of data, the start, the processes, and all else are settings.
        data = {
            name: content[name]
            for name in content
            if name in ("examples", "replay", "groups") or "/" in name
        }
        base, adapter, processes = content["base"], content.get("adapter"), content["processes"]
        settings = {
            name: content[name]
            for name in content
            if name not in (*data, *record.START, "processes")
        }
    parts = [base, settings_that_matter(settings, data, processes), *([adapter] if adapter else [])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _spent_so_far(out: Path) -> dict[str, Spent]:
    """Returns, for each unfinished step, what it cost up to its last complete saved state."""
    names = [
        folder.name.removesuffix(".training")
        for folder in sorted(out.glob("*.training"))
        if (folder / RUN).exists()
    ]
    unfinished = {name: State(out / name) for name in names}
    return {
        name: state.spent(newest, "training")
        for name, state in unfinished.items()
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
    """Writes one phase for the part of a step that the ledger does not hold yet.

    Args:
        ledger: the ledger.
        name: name of the step.
        folder: folder of the finished step, or of the state of an unfinished one.
        spent: the cost of the whole step, earlier parts included.
        before: the same at the start of this part; None if the step started from scratch.
        made: the folder that an unfinished step will become; None if the step is finished.
    """
    key, output = digest(folder), str((made or folder).resolve())
    rows = [
        row
        for row in ledger.phases("training", digest=key)
        if (row.name, row.output) == (name, output)
    ]
    ends = [position for position, row in enumerate(rows) if row.complete]
    open_rows = rows[ends[-1] + 1 if ends else 0 :]
    amounts = {}
    for amount in AMOUNTS:
        # The rows may include an attempt whose folder was deleted: it was paid, but this step does
        # not build on it, so no more than `before` is subtracted.
        recorded = sum(getattr(row, amount) or 0 for row in open_rows)
        earlier = min(recorded, getattr(before, amount)) if before is not None else 0
        amounts[amount] = max(0, getattr(spent, amount) - earlier)
    more = {
        field.name: getattr(spent, field.name)
        for field in fields(spent)
        if field.name in ("peak_bytes", "device", "processes")
    }
    ledger.add(
        "training", name, **amounts, **more, digest=key, output=output, complete=made is None
    )


def _refuse_other_process(out: Path) -> None:
    """Raises SessionError if another process trains in the folder."""
    if pid := running_process(out):
        raise SessionError(
            f"{display_path(out)}: process {pid} trains there now. "
            "Wait for it, stop it, or give another folder."
        )
