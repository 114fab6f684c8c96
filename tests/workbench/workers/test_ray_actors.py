"""Workers that are actors of a real cluster of two nodes, and addresses where none is."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workbench.workers.benches import plain, result_of, unit_of
from tests.workbench.workers.test_serve import until
from workbench.errors import SessionError
from workbench.workers.executor import WorkerLost
from workbench.workers.ray_actors import RayActors

ROOT = Path(__file__).parents[3]
STORE = 80_000_000
"""Bytes of shared memory of each node; Ray's own would be a third of the machine's."""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one CPU each, in processes of their own on this machine."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [before])])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1, num_gpus=0, object_store_memory=STORE)
    yield made
    made.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def wait(executor, unit):
    until(lambda: executor.poll(unit), 120)
    return executor.result(unit)


@pytest.mark.slow
def test_actors_on_two_nodes_measure_and_one_that_dies_costs_its_unit(cluster, data):
    with RayActors(cluster.address, 2, plain) as executor:
        dying, once = unit_of("kill", data), unit_of("kill-once", data)
        units = [unit_of(f"unit {number}", data) for number in range(7)]
        for unit in (dying, once, *units):
            executor.submit(unit)
        assert [wait(executor, unit) for unit in units] == list(map(result_of, units))
        for unit in (dying, once):
            with pytest.raises(WorkerLost, match="An actor of Ray ended"):
                wait(executor, unit)
        executor.submit(once)
        assert wait(executor, once) == result_of(once)
        waiting = [unit_of(f"wait {number}", data) for number in range(2)]
        for unit in waiting:
            executor.submit(unit)
        until(lambda: all(list(data.glob(f"{unit.id}*")) for unit in waiting), 120)
        pids = {
            int(file.name.split("-")[-1]) for unit in waiting for file in data.glob(f"{unit.id}*")
        }
        assert len(pids) == 2 and os.getpid() not in pids
        for unit in waiting:
            executor.cancel(unit)
        other = unit_of("unit after them", data)
        executor.submit(other)
        assert wait(executor, other) == result_of(other)
        failing = unit_of("raise", data)
        executor.submit(failing)
        with pytest.raises(WorkerLost, match="the device ran out of memory"):
            wait(executor, failing)


@pytest.mark.slow
def test_a_cluster_that_is_too_small_is_refused(cluster):
    with pytest.raises(
        SessionError, match="--workers is 5, each needs a CPU, and the cluster has 2"
    ):
        RayActors(cluster.address, 5, plain)


@pytest.mark.slow
def test_a_search_on_two_nodes_has_the_trials_of_one_process(cluster, world, tmp_path):
    trials = []
    for more in ([], ["--workers", "2", "--ray", cluster.address]):
        out = tmp_path / f"{len(more)}.json"
        words = ["search", "recipe.yml", "--data", "data", "--aim", "loss", "--unlimited"]
        words += ["--method", "grid", "--levels", "2", "--budget", "8", "--json", str(out)]
        line = [sys.executable, "-W", "ignore", "-m", "workbench.cli", *words]
        done = subprocess.run(
            [*line, "--workdir", str(tmp_path / f"w{len(more)}"), *more],
            cwd=world,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        trials.append(json.loads(out.read_text())["trials"])
    assert trials[0] == trials[1] and len(trials[0]) == 8


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "--ray is '127.0.0.1:1', and nothing answers there"),
        ("ray://127.0.0.1:10001", "expected HOST:PORT of the head node"),
        ("head-node", "expected HOST:PORT of the head node"),
    ],
)
def test_an_address_that_does_not_answer_is_one_message(tmp_path, address, words):
    from workbench.cli import main

    begin = time.monotonic()
    with pytest.raises(SessionError, match=words):
        RayActors(address, 2, plain)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("merge_method: task_arithmetic\nbase_model: b\nmodels:\n  - model: a\n")
    assert main(["search", str(recipe), "--data", str(tmp_path), "--ray", address]) == 2
    assert time.monotonic() - begin < 10


def test_an_address_where_something_else_answers_is_told_within_ten_seconds():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(
            SessionError, match="no cluster of Ray is there: no answer of Ray within"
        ):
            RayActors(address, 2, plain)
        assert time.monotonic() - begin < 10
