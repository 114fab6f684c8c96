"""What a training cost: clocks, peaks, sums over breaks."""

import time

import pytest
import torch

from training.run.cost import Spent, measured


def test_two_parts_of_one_phase_are_summed_and_the_peak_is_the_higher():
    first = Spent("training", 2.0, 1.0, 10, 100, 40, 7000, "cpu", 1)
    second = Spent("more", 3.0, 2.5, 5, 60, 20, 5000, "other", 2)
    assert first + second == Spent("training", 5.0, 3.5, 15, 160, 60, 7000, "other", 2)
    assert Spent("training") + first == first


def test_device_seconds_are_work_and_wall_seconds_are_time():
    with measured("training") as meter:
        time.sleep(0.2)
        slept = meter.read()
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
    worked = meter.read()
    assert slept.wall_seconds >= 0.2 and slept.device_seconds < 0.15
    assert worked.device_seconds - slept.device_seconds >= 0.1
    assert (worked.phase, worked.device, worked.processes) == ("training", "cpu", 1)


def test_counts_are_added_by_hand():
    with measured("training", processes=2) as meter:
        meter.examples += 3
        meter.tokens += 50
        meter.supervised += 20
    found = meter.read()
    assert (found.examples, found.tokens, found.supervised) == (3, 50, 20)
    assert found.processes == 2


def test_the_peak_is_this_phases_not_the_processs():
    held = torch.ones(100_000_000)  # 400 MB, given back before the phase begins
    del held
    with measured("training") as meter:
        before = meter.read().peak_bytes
        held = torch.ones(50_000_000)
        del held
    assert meter.read().peak_bytes - before == pytest.approx(200e6, rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no accelerator")
def test_on_an_accelerator_its_own_clock_and_memory_count():
    with measured("training", "cuda:0") as meter:
        one = torch.ones((4096, 4096), device="cuda:0")
        for _ in range(20):
            one = one @ one / 4096
    found = meter.read()
    assert 0 < found.device_seconds <= found.wall_seconds + 0.1
    assert found.peak_bytes >= 3 * 4096 * 4096 * 4
    assert found.device == torch.cuda.get_device_name(0)
