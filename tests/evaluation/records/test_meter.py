"""What a meter measures: wall and CPU time, memory at its highest, in blocks that repeat and overlap, and on CUDA."""

import time
from pathlib import Path

import pytest
import torch

from evaluation.records.ledger import Ledger
from evaluation.records.meter import Meter, measured
from plumbing.meter import device_name

MB = 2**20


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_sleeping_costs_wall_time_and_working_costs_both() -> None:
    meter = Meter()
    with meter.running():
        time.sleep(0.3)
    assert meter.wall_seconds >= 0.3
    assert meter.device_seconds < 0.1
    wall, device = meter.wall_seconds, meter.device_seconds
    time.sleep(0.05)  # outside: nobody's
    begin = time.perf_counter()
    with meter.running():
        burn(0.05)
    assert 0.05 <= meter.device_seconds - device < 0.15
    assert 0.05 <= meter.wall_seconds - wall <= time.perf_counter() - begin


def test_the_peak_is_of_the_block_and_not_of_the_process() -> None:
    meter, later = Meter(), Meter()
    with meter.running():
        big = bytearray(256 * MB)
        big[::4096] = b"\x01" * len(big[::4096])
        del big
    with later.running():
        pass
    assert meter.peak_bytes is not None
    assert later.peak_bytes is not None
    assert meter.peak_bytes >= later.peak_bytes + 200 * MB


def test_a_measured_block_is_a_row_also_when_it_fails(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with measured(ledger, "evaluation", "losses", digest="d", settings=3) as spent:
            spent.count(23, 101, 29)
            spent.count(2, 5)
        with pytest.raises(ZeroDivisionError), measured(ledger, "export", "out", output="/out"):
            1 / 0
        done, failed = ledger.phases()
    assert (done.kind, done.name, done.digest, done.settings, done.complete) == (
        "evaluation",
        "losses",
        "d",
        3,
        True,
    )
    assert (done.examples, done.tokens, done.supervised, done.device) == (25, 106, 29, "cpu")
    assert done.peak_bytes is not None
    assert done.wall_seconds > 0
    assert (failed.kind, failed.output, failed.complete, failed.tokens) == (
        "export",
        "/out",
        False,
        None,
    )


def test_without_a_ledger_it_only_measures() -> None:
    with measured(None, "evaluation", "losses") as spent:
        burn(0.01)
    assert spent.device_seconds >= 0.01


def test_a_meter_costs_next_to_nothing() -> None:
    """A slide takes tens of milliseconds; measuring it takes less than one of CPU time."""
    meter, begin = Meter(), time.process_time()
    for _ in range(200):
        with meter.running():
            pass
    assert (time.process_time() - begin) / 200 < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_time_and_memory_are_the_devices() -> None:
    meter = Meter("cuda")
    square = torch.randn(4099, 4099, device="cuda")
    with meter.running():
        made = [square @ square for _ in range(20)]
    assert 0 < meter.device_seconds <= meter.wall_seconds
    assert meter.peak_bytes is not None
    assert meter.peak_bytes >= 21 * square.nbytes
    assert len(made) == 20
    assert device_name("cuda") == device_name("cuda:0") != "cuda"
    later = Meter("cuda")
    del made
    with later.running():
        pass
    assert later.peak_bytes is not None
    assert later.peak_bytes < meter.peak_bytes
