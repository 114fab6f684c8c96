"""The sampler under transformers' Trainer: one process and two real ones over gloo, accumulation, and a resume."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from training.batching.group_sampler import GroupBlockSampler

pytestmark = pytest.mark.slow  # each test waits for trainings in processes of their own

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("sampler_process.py")
GROUPS = [(7 * number) % 13 % 3 for number in range(67)]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def ranks(request, tmp_path_factory):
    """What each process saw."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(request.param),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", SCRIPT, folder],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(request.param)
    ]
    try:
        said = [process.communicate(timeout=300)[0].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * request.param, said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


def steps(ranks, run):
    """(epoch, step) -> the indices that all processes saw in it."""
    found = {}
    for rank in ranks:
        for epoch, step, indices in rank[run]:
            found.setdefault((epoch, step), []).extend(indices)
    return found


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_every_step_is_of_one_group(ranks, accumulation):
    found = steps(ranks, str(accumulation))
    block = 2 * accumulation * len(ranks)
    report = GroupBlockSampler(GROUPS, block, seed=1).report()
    assert len(found) == 2 * report.blocks
    assert all(len(indices) == block for indices in found.values())
    assert all(len({GROUPS[index] for index in indices}) == 1 for indices in found.values())
    assert all(len(rank[str(accumulation)]) == len(found) * accumulation for rank in ranks)
    for epoch in (0, 1):
        seen = [index for (at, _), indices in found.items() if at == epoch for index in indices]
        assert set(seen) == set(range(67))
        assert len(seen) - 67 == report.repeated


def test_all_processes_have_one_order_and_share_it(ranks):
    expected = GroupBlockSampler(GROUPS, 2 * len(ranks), seed=1)
    assert all(rank["order"] == list(expected) for rank in ranks)
    for epoch in (0, 1):
        expected.set_epoch(epoch)
        order = list(expected)
        dealt = [[indices for at, _, indices in rank["1"] if at == epoch] for rank in ranks]
        assert [
            index for turn in zip(*dealt, strict=True) for batch in turn for index in batch
        ] == order


def test_a_resume_in_the_middle_of_an_epoch_goes_on_in_its_order(ranks):
    whole, resumed = steps(ranks, "whole"), steps(ranks, "resumed")
    assert {epoch for epoch, _ in resumed} == {1}
    assert 0 < len(resumed) < len(whole) // 2
    assert resumed == dict(list(whole.items())[-len(resumed) :])


def test_several_processes_that_are_not_told_the_epoch_resume_in_the_order_of_another(ranks):
    """What set_epoch warns of. When this fails, the libraries reach the sampler, and the warning can go."""
    assert {epoch for epoch, _ in steps(ranks, "untold")} == {0 if len(ranks) > 1 else 1}
