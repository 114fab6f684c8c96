"""Searches in processes of their own: begun by a page, they outlive it and its server.

A job of the workdir follows the process. When a server starts, it finds the processes that still
search, and follows them again. To stop a search is to end its process: all that was measured is
kept, and the same search goes on from there when it is asked for again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import commands
from workbench.errors import SessionError
from workbench.processes import dem
from workbench.search.outcome import on_other_split
from workbench.search.record import ABOUT, LOG, RESULT, Progress, SearchRecord
from workbench.search.wanted import AIM_WORDS, Wanted
from workbench.session.job_table import Cancelled, Handle, Job
from workbench.session.keys import fingerprint
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session

KIND = "search"
"""The kind of the job."""
POLL_SECONDS = 0.3
"""How long to wait before looking at the process again."""
PATIENCE_SECONDS = 20
"""How long a process may take to end before it is killed; what it measured is on the disk."""

_CHILDREN: dict[Path, subprocess.Popen[bytes]] = {}
"""Folder -> the process that this one has started there. Kept, because one that has ended stays in
the system's table until its parent has asked for it."""


def submit(session: Session, recipe: Recipe, wanted: Wanted) -> Job:
    """Starts a search in a process of its own, or goes on with one that was stopped.

    Args:
        session: with open models and data; the process measures into its workdir.
        recipe: names the base and the vectors; the search begins at its ω if `wanted` has a start.
        wanted: what to search for.

    Returns:
        The job that follows the process. If this search runs already, that is its job.

    Raises:
        SessionError: no data are open, another search runs, or what is wanted does not fit.
    """
    models = session.models
    if models.data_folder is None:
        raise SessionError(
            "a search measures losses, and no data are open. Choose a data folder under Models."
        )
    wanted.space(tuple(models.names))  # raises if a vector is not open
    saved, options = session.workdir.save_recipe(recipe), wanted.options()
    folder = session.workdir.searches / fingerprint([_inputs(models), recipe.digest, options])[:12]
    words = [str(saved), "--data", str(models.data_folder), "--workdir", str(session.workdir.root)]
    about = {
        "title": _title(wanted),
        "aim": wanted.aim,
        "command": command(session, recipe, wanted),
        "inputs": _inputs(models),
        "words": [*words, *options],
    }
    return _run(session, folder, about)


def resume(session: Session) -> Job:
    """Goes on with the newest search as it was begun, whatever a page shows by now.

    Returns:
        The job that follows its process; that of the running search if it still runs.

    Raises:
        SessionError: there is none, it was of other models, or another search runs.
    """
    job = _newest(session)
    about = SearchRecord(Path(job.key)).about() if job else {}
    if job is None or "words" not in about:
        raise SessionError("no search was stopped here that could go on. Begin one.")
    if about["inputs"] != _inputs(session.models):
        raise SessionError(
            "the last search was of other models than those that are open. Open them, or begin a "
            "new search."
        )
    return _run(session, Path(job.key), about)


def command(session: Session, recipe: Recipe, wanted: Wanted) -> str:
    """Returns the `dem search` line that searches for the same.

    Args:
        session: with open models and data.
        recipe, wanted: see submit.
    """
    assert session.models.data_folder is not None
    saved, root = session.workdir.save_recipe(recipe), session.workdir.root
    return commands.search(saved, session.models.data_folder, root, wanted.options())


def _run(session: Session, folder: Path, about: Mapping[str, Any]) -> Job:
    """Starts or follows the search of a folder; see submit.

    Args:
        session: the session.
        folder: the folder of the search.
        about: its title, command, key of its models, and words for `dem search`.
    """
    for job in session.jobs.active():
        if job.kind == KIND and job.key == str(folder):
            return job
        if job.kind == KIND:
            raise SessionError("another search runs. Stop it, or wait for its end.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).write_text(json.dumps(about), "utf-8")

    def work(handle: Handle) -> str:
        # One that another server of this workdir has started is followed, and not started twice.
        if not SearchRecord(folder).pid:
            _start(folder, about["words"])
        return _follow(session, folder, handle)

    more = {"key": str(folder), "command": about["command"]}
    return session.jobs.submit(KIND, about["title"], work, **more)


def find(session: Session) -> list[Job]:
    """Follows the searches of the workdir that run without a job; returns their jobs."""
    followed = {job.key for job in session.jobs.active() if job.kind == KIND}
    jobs = []
    for file in sorted(session.workdir.searches.glob(f"*/{ABOUT}")):
        folder = file.parent
        if str(folder) in followed or not SearchRecord(folder).pid:
            continue
        about = SearchRecord(folder).about()

        def work(handle: Handle, folder: Path = folder) -> str:
            return _follow(session, folder, handle)

        more = {"key": str(folder), "command": about["command"]}
        jobs.append(session.jobs.submit(KIND, about["title"], work, **more))
    return jobs


def status(session: Session) -> dict[str, Any] | None:
    """Returns how far the newest search is, as JSON for a page; None if there was none."""
    job = _newest(session)
    if job is None:
        return None
    folder = Path(job.key)
    progress = SearchRecord(folder).progress() or Progress(0, 0)
    return {
        "id": job.id,
        "state": job.state,
        "title": job.title,
        "command": job.command,
        "error": job.error,
        "result": job.result,
        "seconds": job.seconds(),
        "left": session.jobs.left(job),
        "models": session.models.key if _is_of(session, folder) else "",
        "spent": progress.spent,
        "budget": progress.budget,
        "trials": progress.trials,
        "score": progress.score,
        "omegas": progress.omegas,
        "method": progress.method,
        "parameters": progress.parameters,
        "problem": progress.problem,
        "front": progress.front,
        # Changes when a better recipe is found that sliders cannot show.
        "recipe": Path(progress.recipe).stem,
    }


def newest(session: Session) -> SearchRecord | None:
    """Returns the folder of the newest search; None if there was none, or it was of other models.

    Args:
        session: with open models.
    """
    job = _newest(session)
    return SearchRecord(Path(job.key)) if job and _is_of(session, Path(job.key)) else None


def records(session: Session) -> list[SearchRecord]:
    """Returns the folders of all searches of the open models, the one that began last first."""
    files = session.workdir.searches.glob(f"*/{ABOUT}")
    newest = sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return [SearchRecord(file.parent) for file in newest if _is_of(session, file.parent)]


def stop(session: Session) -> None:
    """Asks the running search to end; what it measured is kept."""
    for job in session.jobs.active():
        if job.kind == KIND:
            session.jobs.cancel(job.id)


def _newest(session: Session) -> Job | None:
    return next(iter(session.jobs.recent(KIND, limit=1)), None)


def _inputs(models: Models) -> str:
    """Returns the key of what a search measures.

    It is not Models.key, which also covers the quick examples: they depend on the machine's speed,
    so a server that was started again may have others.
    """
    data = {name: data.keys[FULL] for name, data in models.data.items()}
    return fingerprint([models.base.identity, models.identities, data])[:16]


def _is_of(session: Session, folder: Path) -> bool:
    """Returns whether the search of a folder is one of the open models."""
    return session.ready and SearchRecord(folder).about().get("inputs") == _inputs(session.models)


def _title(wanted: Wanted) -> str:
    aim = "each dataset's loss" if wanted.aim == "front" else AIM_WORDS[wanted.aim]
    aim += f" on {wanted.bench.title}" if wanted.bench else ""
    of = f" by {wanted.groups}" if wanted.groups else ""
    of += f" and {', '.join(wanted.vary)} of {wanted.merge.method}" if wanted.vary else ""
    return f"ω{of} by {aim}, {wanted.method}, {wanted.budget} evaluations"


def _start(folder: Path, words: Sequence[str]) -> None:
    """Starts `dem search` in a session of its own: the end of the server does not end it."""
    (folder / RESULT).unlink(missing_ok=True)
    more = ["--record", str(folder), "--json", str(folder / RESULT), "--force"]
    line, environment = dem("search", *words, *more)
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            line,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # Not by the child, whose imports take seconds in which another server may start.
    SearchRecord(folder).begin(process.pid)
    _CHILDREN[folder] = process


def _follow(session: Session, folder: Path, handle: Handle) -> str:
    """Reports the progress of a search until its process ends, and returns what it found.

    Raises:
        Cancelled: the job was cancelled, and the process is ended; or the server ends, and the
            process goes on.
        SessionError: the search failed; the message is its own last line.
    """
    record = SearchRecord(folder)
    while record.pid:
        if handle.should_stop:
            if session.jobs.get(handle.id).state == "cancelling":
                end(folder)
            raise Cancelled
        if progress := record.progress():
            best = f", best {progress.score}" if progress.score else ""
            message = f"{progress.spent:.5g} of {progress.budget} evaluations{best}"
            handle.progress(progress.spent, progress.budget, message)
        time.sleep(POLL_SECONDS)
    end(folder)
    result, progress = record.result(), record.progress()
    if result is None or progress is None:
        raise SessionError(record.tail() or "the process that searches has ended.")
    trades = f", {progress.front} on the front" if progress.front else ""
    return f"{progress.trials} compositions{trades}, best {progress.score}{on_other_split(result)}"


def end(folder: Path) -> None:
    """Ends the process that searches in a folder, if one does, and waits for its end."""
    record = SearchRecord(folder)
    if pid := record.pid:
        os.kill(pid, signal.SIGTERM)
    # Only its parent can wait for it.
    if child := _CHILDREN.pop(folder, None):
        try:
            child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    record.end()
