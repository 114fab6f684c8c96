"""Real processes that measure units: results, deaths, cancelling, the end of the parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.records.ledger import Ledger
from evaluation.records.loss_cache import LossCache
from tests.workbench.workers.benches import broken, plain, result_of, unit_of
from tests.workbench.workers.test_serve import until
from workbench.errors import SessionError
from workbench.workers.executor import WorkerLost
from workbench.workers.local_processes import LocalProcesses
from workbench.workers.shared_folder import take_over

ROOT = Path(__file__).parents[3]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def executor(tmp_path):
    with LocalProcesses(tmp_path / "units", 2, plain) as made:
        yield made


def wait(executor, unit):
    until(lambda: executor.poll(unit), 60)
    return executor.result(unit)


def test_units_are_measured_by_two_processes_and_closing_leaves_nothing(executor, data, tmp_path):
    units = [unit_of(f"unit {number}", data) for number in range(7)]
    for unit in units:
        executor.submit(unit)
    assert [wait(executor, unit) for unit in units] == list(map(result_of, units))
    pids = {int(file.name.split("-")[-1]) for file in data.iterdir()}
    assert os.getpid() not in pids
    executor.close()
    executor.close()
    assert list((tmp_path / "units").iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_unit_only(executor, data):
    dying, others = unit_of("kill", data), [unit_of(f"unit {n}", data) for n in range(5)]
    for unit in (dying, *others):
        executor.submit(unit)
    assert [wait(executor, unit) for unit in others] == list(map(result_of, others))
    with pytest.raises(WorkerLost, match=r"A worker was killed by signal 9"):
        wait(executor, dying)
    once = unit_of("kill-once", data)
    executor.submit(once)
    with pytest.raises(WorkerLost):
        wait(executor, once)
    executor.submit(once)
    assert wait(executor, once) == result_of(once)


@pytest.mark.slow
def test_an_error_inside_a_worker_is_told(executor, data):
    unit = unit_of("raise", data)
    executor.submit(unit)
    with pytest.raises(WorkerLost, match="exit code 1. RuntimeError: the device ran out of memory"):
        wait(executor, unit)


@pytest.mark.slow
def test_a_unit_that_is_cancelled_stops_and_its_worker_goes_on(executor, data):
    waiting = [unit_of(f"wait {number}", data) for number in range(2)]
    for unit in waiting:
        executor.submit(unit)
    until(lambda: len(list(data.iterdir())) == 2, 60)
    other = unit_of("unit", data)
    executor.submit(other)
    assert not executor.poll(other)
    for unit in waiting:
        executor.cancel(unit)
    assert wait(executor, other) == result_of(other)
    assert (data / "stopped").exists() and not any(map(executor.poll, waiting))


@pytest.mark.slow
def test_workers_that_cannot_begin_are_one_error(tmp_path, data):
    with LocalProcesses(tmp_path / "units", 1, broken) as executor:
        unit = unit_of("unit", data)
        with pytest.raises(SessionError, match="3 workers ended before they could begin.*no such"):
            executor.submit(unit)
            wait(executor, unit)


@pytest.mark.slow
def test_a_killed_parent_ends_its_workers_and_the_next_one_finds_their_results(tmp_path, data):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from tests.workbench.workers.benches import plain, unit_of\n"
        "from workbench.workers.local_processes import LocalProcesses\n"
        "if __name__ == '__main__':\n"
        "  executor = LocalProcesses(Path(sys.argv[1]), 2, plain)\n"
        "  for word in ('unit', 'wait 1', 'wait 2'):\n"
        "    executor.submit(unit_of(word, Path(sys.argv[2])))\n"
        "  time.sleep(600)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    units = tmp_path / "units"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script, units, data], env=environment)
    try:
        until(lambda: len(list(data.iterdir())) == 3 and list(units.glob("*/results/*.json")), 60)
        book, ledger = LossCache(tmp_path / "losses"), Ledger(tmp_path / "ledger")
        assert take_over(units, book, ledger) == 0  # its owner lives
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: (data / "stopped").exists(), 60)
    # What both of them have left: the loss that was measured, and no folder.
    assert take_over(units, book, ledger) == 1
    assert (
        book.get("unit", "examples of ada")
        == result_of(unit_of("unit", data)).entries["examples of ada"]
    )
    assert list(units.iterdir()) == []
    pids = [int(file.name.split("-")[-1]) for file in data.glob("*-*-*")]
    until(lambda: not any(map(_lives, pids)))
    book.close()
    ledger.close()


def _lives(pid):
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
