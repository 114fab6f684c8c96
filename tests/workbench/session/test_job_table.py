"""Jobs outlive the page: one copy per key, cancel at the next step, the dead are marked, the ETA is honest."""

import sqlite3
import threading
import time
from dataclasses import replace

import pytest

from workbench.session.job_table import FINISHED, Cancelled, Jobs


@pytest.fixture
def jobs(tmp_path):
    table = Jobs(tmp_path / "jobs.sqlite")
    yield table
    table.close()


def test_a_job_runs_reports_and_keeps_its_result(jobs):
    def work(handle):
        for step in range(7):
            handle.progress(step + 1, 7, f"step {step + 1}")
        handle.log("all seven")
        return "out/folder"

    job = jobs.wait(jobs.submit("export", "to out/folder", work, key="a").id)
    assert (job.state, job.done, job.total, job.result) == ("done", 7, 7, "out/folder")
    assert jobs.tail(job.id) == ["all seven"]


def test_a_second_click_starts_nothing(jobs):
    go = threading.Event()
    runs = []

    def work(handle):
        runs.append(1)
        go.wait(5)
        return "ok"

    first = jobs.submit("export", "one", work, key="same")
    second = jobs.submit("export", "two", work, key="same")
    go.set()
    jobs.wait(first.id)
    assert second.id == first.id and runs == [1]
    third = jobs.submit(
        "export", "three", work, key="same"
    )  # the twin: a finished job does not block a new one
    jobs.wait(third.id)
    assert third.id != first.id and runs == [1, 1]


def test_cancel_stops_at_the_next_step_and_twice_is_once(jobs):
    started = threading.Event()

    def work(handle):
        for step in range(10_000):
            handle.progress(step, 10_000)
            started.set()
            time.sleep(0.005)
        return "never"

    id = jobs.submit("benchmark", "long", work, key="x").id
    assert started.wait(5)
    assert jobs.cancel(id).state == "cancelling"
    jobs.cancel(id)
    began = time.monotonic()
    assert jobs.wait(id).state == "cancelled"
    assert time.monotonic() - began < 2
    assert jobs.cancel(id).state == "cancelled"  # after the end


def test_jobs_of_one_kind_wait_for_each_other_and_a_waiting_one_can_be_cancelled(jobs):
    go = threading.Event()

    def work(handle):
        go.wait(5)
        return "ok"

    first = jobs.submit("export", "one", work, key="1")
    second = jobs.submit("export", "two", work, key="2")
    other = jobs.submit("benchmark", "three", lambda handle: "at once", key="3")
    assert jobs.wait(other.id).state == "done"
    assert jobs.get(second.id).state == "queued"
    jobs.cancel(second.id)
    assert jobs.wait(second.id).state == "cancelled"
    go.set()
    assert jobs.wait(first.id).state == "done"


def test_a_failure_keeps_its_message_and_frees_the_lane(jobs):
    def fails(handle):
        raise ValueError("the disk is full: 3 MB needed, 1 MB free")

    job = jobs.wait(jobs.submit("export", "one", fails, key="1").id)
    assert job.state == "failed" and "3 MB needed" in job.error
    assert jobs.wait(jobs.submit("export", "two", lambda handle: "ok", key="1").id).state == "done"


def test_cancelled_is_no_failure(jobs):
    def work(handle):
        raise Cancelled

    assert jobs.wait(jobs.submit("export", "one", work, key="1").id).state == "cancelled"


def test_jobs_of_a_dead_process_are_interrupted_at_the_next_start(tmp_path):
    path = tmp_path / "jobs.sqlite"
    table = Jobs(path)
    done = table.wait(table.submit("export", "one", lambda handle: "ok", key="1").id)
    table.close()
    with sqlite3.connect(path) as db:
        insert = "INSERT INTO jobs (kind, title, key, command, state, created, pid, boot) VALUES (?,?,?,?,?,?,?,?)"
        db.execute(insert, ("export", "t", "k", "", "running", 0, 2**22 + 1, 5.0))
        db.execute(insert, ("export", "t", "k2", "", "queued", 0, 2**22 + 1, 5.0))
    db.close()
    again = Jobs(path)
    states = {job.id: job.state for job in again.recent()}
    again.close()
    assert states == {done.id: "done", 2: "interrupted", 3: "interrupted"}
    assert all(state in FINISHED for state in states.values())


def test_the_time_left_comes_from_the_pace_while_the_job_runs(jobs):
    half, go = threading.Event(), threading.Event()

    def work(handle):
        time.sleep(0.2)
        handle.progress(4, 7)
        half.set()
        go.wait(5)
        return "ok"

    job = jobs.submit("export", "one", work, key="1")
    assert half.wait(5)
    left = jobs.left(jobs.get(job.id))
    assert left is not None and left >= 1.0  # never "0 s"
    go.set()
    assert jobs.left(jobs.wait(job.id)) is None
    assert jobs.left(replace(jobs.get(job.id), state="running")) is None  # as in another process


def test_a_damaged_table_is_moved_aside_reported_and_replaced(tmp_path):
    path = tmp_path / "jobs.sqlite"
    table = Jobs(path)
    table.wait(table.submit("export", "one", lambda handle: "ok", key="1").id)
    table.close()
    reported = []
    Jobs(path, reported.append).close()
    assert not reported, "the twin: a sound file is opened without a word"
    content = path.read_bytes()[:4096] + b"\xff" * 8192
    path.write_bytes(content)
    again = Jobs(path, reported.append)
    assert again.recent() == []
    assert again.wait(again.submit("export", "two", lambda handle: "ok", key="1").id).id == 1
    again.close()
    (aside,) = tmp_path.glob("jobs.sqlite.corrupt-*")
    assert reported == [
        f"{path} is damaged; it was kept as {aside.name} and a new job list was started."
    ]
    assert aside.read_bytes() == content


def test_a_table_from_before_it_had_a_version_is_opened_with_its_jobs(tmp_path):
    path = tmp_path / "jobs.sqlite"
    table = Jobs(path)
    id = table.wait(table.submit("export", "one", lambda handle: "ok", key="1").id).id
    table.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 0")
    db.close()
    again = Jobs(path)
    assert again.get(id).state == "done"
    again.close()
