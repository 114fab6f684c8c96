"""Questions about data as jobs: each runs `dem` commands in processes of their own.

A run has a folder, DIR/data/QUESTION/NAME, with its settings in run.json and its answer in
result.json. What it computes on the way is kept by the commands, so a run that was stopped goes on
where it was. Selections from one pool share a study in DIR/studies: its warm-up and its gradients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from corpus import dataset_files
from plumbing.atomic import write_whole
from workbench import commands
from workbench.errors import SessionError
from workbench.influence_runs.balance_rounds import check_balance
from workbench.influence_runs.data_answers import RESULT
from workbench.influence_runs.data_settings import (
    FILE,
    BalanceSettings,
    MisfiledSettings,
    SelectSettings,
    Settings,
    read_settings,
    write_settings,
)
from workbench.influence_runs.study import begin_study
from workbench.jobs import data_commands as lines
from workbench.jobs.data_commands import DataCommand
from workbench.jobs.worker_process import JobPart, WorkerProcess
from workbench.plans import plan_files
from workbench.session.job_table import Handle, Job

if TYPE_CHECKING:
    from workbench.session.session import Session

TITLES = {
    "select": "which examples",
    "balance": "how much of each domain",
    "misfiled": "which examples are misfiled",
}
"""Question -> how the title of its job ends."""


def runs(session: Session, question: str) -> list[str]:
    """Returns the names of the runs of a question, newest first."""
    files = session.workdir.data_runs(question).glob(f"*/{FILE}")
    return [file.parent.name for file in sorted(files, key=lambda file: -file.stat().st_mtime)]


def is_finished(session: Session, question: str, name: str) -> bool:
    """Returns whether the answer of a run is there."""
    return (session.workdir.data_run(question, name) / RESULT).is_file()


def settings_of(session: Session, question: str, name: str) -> Settings:
    """Returns the settings of a run; raises as read_settings does."""
    settings: Settings = read_settings(session.workdir.data_run(question, name), question)
    return settings


def check(session: Session, settings: Settings) -> None:
    """Checks what settings name: their folders, their data, their plan.

    Raises:
        SessionError, PlanError, InfluenceError: with what was given, what was expected, and the
            next step.
    """
    match settings:
        case SelectSettings():
            base = session.folders.resolve(settings.base)
            if not (base / "config.json").is_file():
                raise SessionError(
                    f"Base model: {settings.base} holds no model (no config.json). Choose the "
                    "folder of a model from the list."
                )
            files_of(session, settings.pool, settings.split, "Pool")
            files_of(session, settings.targets, settings.target_split, "Targets")
        case BalanceSettings():
            plan = plan_files.check(session.workdir, session.folders, settings.plan)
            check_balance(plan, [settings.method])
        case MisfiledSettings():
            names = files_of(session, settings.data, settings.split, "Data")
            experts = list(session.models.names)
            if missing := [name for name in names if name not in experts]:
                raise SessionError(
                    f"Data: {settings.data} has {', '.join(missing)}, and the open models are "
                    f"{', '.join(experts)}. Each dataset needs the expert of its name: open it "
                    "under Models, or give a folder with those datasets only."
                )


def files_of(session: Session, folder: str, split: str, field: str) -> dict[str, Path]:
    """Returns the files of a split in a folder of datasets.

    Args:
        session: its folders may be read.
        folder: holds DATASET/SPLIT.jsonl.
        split: the split.
        field: the name of the field, for messages.

    Raises:
        SessionError: there is no such file, or the folder may not be read.
    """
    if not folder:
        raise SessionError(f"{field}: no folder is given. Choose one from the list.")
    try:
        files = dataset_files(session.folders.resolve(folder), split)
    except SessionError as error:
        raise SessionError(f"{field}: {error}") from None
    if not files:
        raise SessionError(
            f"{field}: {folder} holds no <dataset>/{split}.jsonl. Give a folder with one folder "
            f"per dataset, each with {split}.jsonl, or another split."
        )
    return files


def submit(session: Session, name: str, settings: Settings) -> Job:
    """Starts a new run; a second click returns its job.

    Raises:
        SessionError, PlanError, InfluenceError: nothing was started.
    """
    question = settings.QUESTION
    folder = session.workdir.data_run(question, name)
    if running := _active(session, question, folder):
        return running
    if (folder / RESULT).exists():
        raise SessionError(f"{name} is finished already. Give another name.")
    if (folder / FILE).exists():
        raise SessionError(
            f"{name} was begun and not finished. Press Resume to go on, or give another name."
        )
    check(session, settings)
    write_settings(folder, settings)
    if isinstance(settings, BalanceSettings):
        write_whole(folder / "plan.yml", settings.plan)
    elif isinstance(settings, MisfiledSettings):
        write_whole(folder / "recipe.yml", settings.recipe)
    return _run(session, name, settings)


def resume(session: Session, question: str, name: str) -> Job:
    """Goes on with a run as it was begun, whatever the form shows by now.

    Raises:
        SessionError: there is no such run, it is finished, or its folders may not be read any more.
    """
    folder = session.workdir.data_run(question, name)
    if running := _active(session, question, folder):
        return running
    if (folder / RESULT).exists():
        raise SessionError(f"{name} is finished; its answer is below.")
    return _run(session, name, settings_of(session, question, name))


def stop(session: Session, question: str, name: str) -> None:
    """Asks a run to stop; what it has computed is kept."""
    job = _active(session, question, session.workdir.data_run(question, name))
    if job:
        session.jobs.cancel(job.id)


def last_job(session: Session, question: str, name: str) -> Job | None:
    """Returns the newest job of a run, or None if it has none."""
    key = str(session.workdir.data_run(question, name))
    return next((job for job in session.jobs.recent(question, limit=200) if job.key == key), None)


def commands_of(session: Session, name: str, settings: Settings) -> list[DataCommand]:
    """Returns the commands of a run in their order; those of a study that is finished as well.

    Raises:
        SessionError: the folders of the settings may not be read, or hold no data.
    """
    root = session.workdir.root
    folder = session.workdir.data_run(settings.QUESTION, name)
    match settings:
        case SelectSettings():
            study, pool = study_of(session, settings)
            targets = _lines(files_of(session, settings.targets, settings.target_split, "Targets"))
            if settings.limit:
                targets = {name: min(settings.limit, count) for name, count in targets.items()}
            counts = (pool, sum(targets.values()))
            chosen = lines.select_command(settings, study, folder, root, counts)
            if settings.method != "less":
                return [lines.begin_command(settings, study, root), chosen]
            return [
                lines.warm_up_command(settings, study, root, pool),
                lines.store_command(settings, study, root, pool),
                chosen,
            ]
        case BalanceSettings():
            return [lines.balance_command(settings, folder, root, session.folders.roots)]
        case MisfiledSettings():
            return [lines.misfiled_command(settings, folder, root)]


def study_of(session: Session, settings: SelectSettings) -> tuple[Path, int]:
    """Returns the folder of the study that a selection needs, and the records of its pool.

    Selections that differ only in targets, method or budget share it. It depends on the content of
    the pool, so changed data begin another study.
    """
    files = files_of(session, settings.pool, settings.split, "Pool")
    base = session.folders.resolve(settings.base)
    digests = {}
    for name, file in files.items():
        with file.open("rb") as stream:
            digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    facts = [str(base), asdict(settings.warm_up), settings.size, digests]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return session.workdir.studies / key, sum(_lines(files).values())


def _lines(files: Mapping[str, Path]) -> dict[str, int]:
    counts = {}
    for name, file in files.items():
        with file.open("rb") as stream:
            counts[name] = sum(1 for line in stream if line.strip())
    return counts


def _active(session: Session, question: str, folder: Path) -> Job | None:
    jobs = session.jobs.active()
    return next((job for job in jobs if (job.kind, job.key) == (question, str(folder))), None)


def _run(session: Session, name: str, settings: Settings) -> Job:
    """Starts the job of a run, which skips what is done already."""
    folder = session.workdir.data_run(settings.QUESTION, name)
    every = commands_of(session, name, settings)

    def work(handle: Handle) -> str:
        todo = _left(every, settings)
        whole = sum(lines.START + command.work for command in todo)
        done = 0.0
        for command in todo:
            ends = done + lines.START + command.work
            shares = (done / whole, (done + lines.START) / whole, ends / whole)
            part = JobPart(handle, shares, command.name)
            if command.name == "study":
                _begin(command, settings)
            else:
                WorkerProcess([*map(str, (*command.words, *command.more))]).carry_out(part)
            done = ends
        return f"the answer is below and in {commands.display_path(folder)}"

    return session.jobs.submit(
        settings.QUESTION,
        f"{name}: {TITLES[settings.QUESTION]}",
        work,
        key=str(folder),
        command="\n".join(commands.shown(command.words) for command in every),
    )


def _left(every: list[DataCommand], settings: Settings) -> list[DataCommand]:
    """Returns the commands without the warm-up and the store of a study that has them.

    Each would find that out by itself, after seconds of imports.
    """
    if not isinstance(settings, SelectSettings) or settings.method != "less":
        return every
    _, store, select = every
    study = Path(store.words[2])
    if (study / f"store-{settings.kind}" / "manifest.json").exists():
        return [select]
    trained = (study / "trained" / "warmup" / "training.json").exists()
    return [store, select] if trained else every


def _begin(command: DataCommand, settings: Settings) -> None:
    """Begins a study in this process, which does not take the seconds of another's imports."""
    assert isinstance(settings, SelectSettings)
    # As the command resolves it, so that a later warm-up finds its own study.
    base, pool = str(Path(settings.base).resolve()), Path(settings.pool)
    begin_study(Path(command.words[3]), base, pool, settings.split, settings.warm_up)
