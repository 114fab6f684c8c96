"""Events of a `dem` command become the progress of a job; several commands share one job."""

import pytest

from workbench.errors import SessionError
from workbench.jobs.worker_process import JobPart, WorkerProcess
from workbench.session.job_table import Cancelled


class Told:
    """A handle that keeps what it is told, and cancels after some reports."""

    def __init__(self, cancelled=False):
        self.should_stop, self.progressed, self.lines = cancelled, [], []

    def progress(self, done, total, message=""):
        if self.should_stop:
            raise Cancelled
        self.progressed.append((round(done / total, 4) if total else None, message))

    def log(self, line):
        self.lines.append(line)


def test_a_part_moves_between_its_own_ends():
    told = Told()
    part = JobPart(told, (0.2, 0.4, 0.8), "gradients")
    part.progress(0, 0, "starting")
    part.progress(1, 4, "75 of 300")
    part.progress(4, 4)
    part.log("line")
    assert told.progressed == [
        (0.2, "gradients: starting"), (0.5, "gradients: 75 of 300"), (0.8, "gradients"),
    ]  # fmt: skip
    assert told.lines == ["line"] and not part.should_stop


def test_stages_and_counts_become_one_share():
    told, worker = Told(), WorkerProcess(["--version"])
    moment = {
        "share": 0.5, "number": 1, "of": 1, "step": "mix", "done": 3, "updates": 6, "loss": 1.25,
    }  # fmt: skip
    for event in (
        {"stage": {"done": 0, "of": 4}},
        {"moment": moment},
        {"stage": {"done": 1, "of": 4}, "log": "round 0"},
        {"progress": {"done": 250, "total": 1000, "what": "passes"}},
    ):
        worker._report(event, told, False)
    assert told.progressed == [
        (0.0, ""), (0.125, "step 1 of 1, mix: 3 of 6 updates, loss 1.250"), (0.25, ""),
        (0.3125, "250 of 1,000 passes"),
    ]  # fmt: skip
    assert told.lines == ["round 0"]


def test_an_error_of_the_command_is_that_of_the_job(tmp_path):
    told = Told()
    words = ["influence", "store", str(tmp_path / "none")]
    with pytest.raises(SessionError, match="is no study"):
        WorkerProcess(words).carry_out(told)
    assert told.progressed[0] == (None, "starting")


def test_nothing_starts_for_a_job_that_is_cancelled():
    with pytest.raises(Cancelled):
        WorkerProcess(["influence", "store", "none"]).carry_out(Told(cancelled=True))
