"""Workers that submitit starts; here on this machine, because no Slurm runs in the tests."""

import os
import signal
import sys

import pytest

from tests.workbench.workers.benches import plain, result_of, unit_of
from tests.workbench.workers.test_serve import until
from workbench.errors import SessionError
from workbench.workers.executor import WorkerLost
from workbench.workers.slurm_jobs import SlurmJobs


def pids_of(data):
    return {int(file.name.split("-")[-1]) for file in data.glob("*-*-*")}


@pytest.mark.slow
def test_units_are_grouped_by_jobs_and_one_that_is_killed_costs_its_unit(tmp_path, monkeypatch):
    # A job finds its bench by the module's name.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    data = tmp_path / "data"
    data.mkdir()
    units = [unit_of(f"unit {number}", data) for number in range(11)]
    waiting = unit_of("wait", data)
    with SlurmJobs(tmp_path / "units", 2, plain, "local") as executor:
        for unit in units:
            executor.submit(unit)
        for unit in units:
            until(lambda unit=unit: executor.poll(unit), 120)
            assert executor.result(unit) == result_of(unit)
        assert 1 <= len(pids_of(data)) <= 2 and os.getpid() not in pids_of(data)
        executor.submit(waiting)
        until(lambda: list(data.glob(f"{waiting.id}*")), 60)
        (mark,) = data.glob(f"{waiting.id}*")
        os.kill(int(mark.name.split("-")[-1]), signal.SIGKILL)
        until(lambda: executor.poll(waiting), 60)
        with pytest.raises(WorkerLost, match=r"Job \d+ ended"):
            executor.result(waiting)
        other = unit_of("unit after it", data)
        executor.submit(other)
        until(lambda: executor.poll(other), 120)
        assert executor.result(other) == result_of(other)
    assert list((tmp_path / "units").iterdir()) == []


def test_without_slurm_a_partition_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SessionError, match="--submitit is 'gpu', and Slurm is not available here"):
        SlurmJobs(tmp_path / "units", 2, plain, "gpu")
    assert list((tmp_path / "units").iterdir()) == []
