"""The time left: exact for steady work, soon right after a change of pace, never far off at the end."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from workbench.pace import Pace, time_left_column


def paced(marks, begin=100.0):
    pace = Pace(begin)
    for seconds, share in marks:
        pace.mark(share, begin + seconds)
    return pace


@pytest.mark.parametrize(
    ("share", "seconds", "left"),
    [
        (0.5, 10.0, 10.0),  # half done in 10 s: 10 s left
        (0.01, 5.0, None),  # 1 % after 5 s: too early
        (0.01, 11.0, 1089.0),  # after 10 s any pace is told
        (0.0, 50.0, None),  # nothing done, no guess
        (0.999, 10.0, 1.0),  # never "0 s"
        (1.0, 10.0, None),  # all is done
    ],
)
def test_one_mark_is_measured_from_the_beginning(share, seconds, left):
    found = paced([(seconds, share)]).left(100.0 + seconds)
    assert found == (pytest.approx(left) if left else None)


def test_steady_work_has_the_time_that_it_takes():
    """400 s in all, told ten times a second."""
    pace = Pace(0.0)
    for tenth in range(1, 4000):
        now = tenth / 10
        pace.mark(now / 400, now)
        if now > 10.1:
            assert pace.left(now) == pytest.approx(max(1.0, 400 - now), rel=0.02)
    assert len(pace._marks) < 2100  # those before the later half are dropped


@pytest.mark.parametrize(("first", "seconds"), [(0.3, 2.0), (0.02, 100.0)])
def test_after_a_change_of_pace_it_is_soon_right(first, seconds):
    """A first part that is much faster, or much slower, than the 200 s of the rest."""
    pace = Pace(0.0)
    pace.mark(first, seconds)
    for second in range(1, 200):
        now = seconds + second
        pace.mark(first + (1 - first) * second / 200, now)
        if now / 2 > seconds + 1 and now > 25:
            assert pace.left(now) == pytest.approx(max(1, 200 - second), rel=0.05)
    assert pace.left(seconds + 199) <= 3


def test_work_that_stands_still_gets_longer_and_recovers():
    pace = paced([(10, 0.25), (20, 0.5)])
    told = [pace.left(100 + seconds) for seconds in (20, 25, 30, 60)]
    assert told == sorted(told)
    assert told[-1] == pytest.approx(60)  # 0.5 in 60 s


def test_the_bar_of_a_terminal_shows_the_time_left():
    now = 100.0
    console = Console(file=io.StringIO(), force_terminal=True)
    with Progress(time_left_column(), console=console, get_time=lambda: now) as bar:
        task = bar.add_task("write", total=200)

        def shown():
            return bar.columns[0].render(bar.tasks[0]).plain

        assert shown() == "-:--:--"
        now = 120.0
        bar.update(task, completed=50)
        assert shown() == "0:01:00"  # a quarter in 20 s
        now = 180.0
        bar.update(task, completed=200)
        assert shown() == ""
