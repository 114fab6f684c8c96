"""Sums of an outlook: parts that are done cost nothing more, and an unknown part leaves no sum."""

import pytest

from workbench.influence_runs.outlooks.data_outlook import (
    DataOutlook,
    PartOutlook,
    start_seconds,
    timed,
)

DONE = PartOutlook("warm-up", 60, 2_000, 0.0, 1_000, done=True)
LEFT = PartOutlook("gradients", 1_200, 48_000, 95.0, 20_000_000)


def test_seconds_and_disk_are_of_what_is_left():
    outlook = DataOutlook((DONE, LEFT), ("timed here",))
    assert (outlook.seconds, outlook.disk) == (95.0, 20_000_000)


def test_a_part_of_unknown_time_leaves_no_sum():
    assert DataOutlook((LEFT, PartOutlook("x", None, None, None)), ()).seconds is None


def test_work_is_timed():
    assert 0 <= timed(lambda: sum(range(10))) < 1


@pytest.mark.slow
def test_the_start_of_a_process_is_measured_once():
    assert 0.2 < start_seconds() < 120 and timed(start_seconds) < 0.01
