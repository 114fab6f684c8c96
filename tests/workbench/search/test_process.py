"""Searches in processes of their own: their result, stopping, and being found again."""

import shutil
import time
from pathlib import Path

import pytest

from workbench.errors import SessionError
from workbench.search import process
from workbench.search.measured import measured_points
from workbench.search.record import SearchRecord
from workbench.search.wanted import Wanted
from workbench.session.session import Session

LOSS = Wanted(aim="loss", method="coordinate", limited=False, budget=3)


@pytest.fixture
def opened(world, tmp_path):
    """Sessions on one workdir, with a test split; all are closed, and no process is left."""
    demo = shutil.copytree(world, tmp_path / "demo")
    for file in demo.glob("data/*/validation.jsonl"):
        shutil.copy(file, file.with_name("test.jsonl"))
    sessions = []

    def make():
        session = Session([], tmp_path / "workdir", demo=demo)
        session.open_demo()
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()
    for folder in (tmp_path / "workdir" / "searches").glob("*"):
        process.end(folder)


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def test_a_search_measures_into_the_workdir_and_tells_its_best(opened):
    session = opened()
    assert process.status(session) is None
    job = process.submit(session, session.recipe({}), LOSS)
    # A second click starts nothing, and another search waits.
    assert process.submit(session, session.recipe({}), LOSS).id == job.id
    with pytest.raises(SessionError, match="another search runs"):
        process.submit(session, session.recipe({}), Wanted())
    assert process.status(session)["state"] in ("queued", "running")
    done = session.jobs.wait(job.id, 120)
    assert done.state == "done", done.error
    assert done.result.startswith("3 compositions, best mean loss ")
    assert "; on test: " in done.result and "mean loss" in done.result
    now = process.status(session)
    assert (now["spent"], now["budget"], now["trials"]) == (3, 3, 3)
    assert now["omegas"].keys() == set(session.models.names)
    # The page knows at once what the other process has measured.
    points = measured_points(session.book, session.models)
    assert dict(now["omegas"]) in [point.omegas for point in points]
    assert now["score"] == f"mean loss {min(point.mean for point in points):.4f}"
    assert SearchRecord(Path(job.key)).pid is None


@pytest.mark.slow
def test_one_that_was_stopped_goes_on_where_it_was(opened):
    session = opened()
    long = Wanted(aim="loss", method="grid", limited=False, budget=200, levels=6)
    job = process.submit(session, session.recipe({}), long)
    until(lambda: process.status(session)["trials"] >= 2)
    process.stop(session)
    assert session.jobs.wait(job.id, 30).state == "cancelled"
    assert SearchRecord(Path(job.key)).pid is None
    before = {point.key for point in measured_points(session.book, session.models)}
    again = process.resume(session)
    assert again.key == job.key and again.id != job.id
    assert process.submit(session, session.recipe({}), long).id == again.id
    assert again.command == job.command == process.command(session, session.recipe({}), long)
    until(lambda: len(measured_points(session.book, session.models)) > len(before) + 2)
    process.stop(session)
    session.jobs.wait(again.id, 30)
    assert before < {point.key for point in measured_points(session.book, session.models)}


@pytest.mark.slow
def test_it_outlives_its_server_and_is_found_again(opened):
    first = opened()
    long = Wanted(aim="loss", method="grid", limited=False, budget=40, levels=6)
    job = process.submit(first, first.recipe({}), long)
    record = SearchRecord(Path(job.key))
    until(lambda: record.progress() is not None)
    pid = record.pid
    first.close()
    assert record.pid == pid
    second = opened()
    (found,) = process.find(second)
    assert process.status(second)["models"] == second.models.key
    assert process.newest(second).folder == record.folder
    assert process.find(second) == [] and found.key == job.key
    done = second.jobs.wait(found.id, 180)
    assert done.state == "done" and "40 compositions" in done.result
    assert len(measured_points(second.book, second.models)) >= 40


@pytest.mark.slow
def test_one_that_cannot_begin_fails_with_its_own_words(opened, monkeypatch):
    session = opened()
    shutil.rmtree(session.models.checkpoints[0])
    job = process.submit(session, session.recipe({}), LOSS)
    failed = session.jobs.wait(job.id, 120)
    assert failed.state == "failed"
    assert "ada" in failed.error


def test_what_does_not_fit_starts_nothing(opened):
    session = opened()
    with pytest.raises(SessionError, match="no search was stopped here"):
        process.resume(session)
    assert process.newest(session) is None
    with pytest.raises(SessionError, match="no vector is called 'nobody'"):
        process.submit(session, session.recipe({}), Wanted(frozen=("nobody",)))
    assert session.jobs.recent(process.KIND) == []
    assert not session.workdir.searches.exists()
