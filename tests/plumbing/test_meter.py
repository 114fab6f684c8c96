"""Clocks and peaks of a device: one mark for phases that overlap, and what the system says."""

from pathlib import Path

import pytest

from plumbing import meter as meters
from plumbing.meter import HighWater, device_name, high_water

MB = 2**20


def test_phases_that_overlap_each_have_their_own_peak() -> None:
    """A mark that the system keeps once: 1 before, 9 while both run, 4 at the end."""
    now, mark = 1, [1]

    def hold(value: int) -> None:
        nonlocal now
        now = value
        mark[0] = max(mark[0], value)

    water = HighWater(lambda: mark[0], lambda: mark.__setitem__(0, now))
    hold(20)
    hold(1)
    outer = water.begin()  # 20 was before it
    hold(7)
    hold(2)
    inner = water.begin()  # 7 was before this one only
    hold(5)
    hold(3)
    assert water.end(inner) == 5
    hold(4)
    assert water.end(outer) == 7
    alone = water.begin()
    assert water.end(alone) == 4


def test_a_process_that_may_not_reset_its_mark_still_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meters, "CLEAR", tmp_path)  # a folder cannot be written to
    monkeypatch.setattr(meters, "STATUS", tmp_path / "not there")
    meters._reset_resident_mark()
    assert 10 * MB < meters._resident_mark() < 1024 * 1024 * MB


def test_the_resident_mark_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  123 kB\nVmRSS:\t 7 kB\n")
    monkeypatch.setattr(meters, "STATUS", tmp_path / "status")
    assert meters._resident_mark() == 123 * 1024


def test_one_mark_per_device() -> None:
    assert high_water("cpu") is high_water("cpu")


def test_the_name_of_a_device() -> None:
    assert device_name("cpu") == "cpu"
