"""The scheduler of the live module: urgent work first, pages in turn, each task ended once."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.line.scheduler import Rank, Scheduler


@pytest.fixture
def scheduler():
    made = Scheduler()
    yield made
    made.close()


class Watch:
    """Collects what a task delivers, and how it ended."""

    def __init__(self):
        self.messages, self.ends, self.over = [], [], threading.Event()

    def ended(self, error):
        self.ends.append(error)
        self.over.set()


def start(scheduler, page, phases):
    watch = Watch()
    watch.cancel = scheduler.submit(page, phases, watch.messages.append, watch.ended)
    return watch


def numbers(rank, count, log=None, name=""):
    def steps():
        for number in range(count):
            if log is not None:
                log.append(name)
            yield number

    yield rank, steps()


def test_a_task_delivers_its_messages_in_order_and_ends_once(scheduler):
    watch = start(scheduler, "page", numbers(Rank.FULL, 5))
    assert watch.over.wait(5)
    assert (watch.messages, watch.ends) == ([0, 1, 2, 3, 4], [None])


def test_a_step_without_a_message_delivers_nothing(scheduler):
    watch = start(scheduler, "page", iter([(Rank.QUICK, iter([None, "quick", None]))]))
    assert watch.over.wait(5)
    assert watch.messages == ["quick"]


def test_a_newer_task_of_a_page_replaces_the_old_one_at_its_next_step(scheduler):
    inside, go = threading.Event(), threading.Event()

    def slow():
        inside.set()
        go.wait(5)
        yield "late"
        yield "never"

    old = start(scheduler, "page", iter([(Rank.SETTLE, slow())]))
    assert inside.wait(5)
    new = start(scheduler, "page", numbers(Rank.SETTLE, 1))
    assert old.over.is_set()  # told at once, while its step still runs
    go.set()
    assert new.over.wait(5)
    assert (old.messages, old.ends) == ([], [None])
    assert new.messages == [0]


def test_quick_work_of_one_page_overtakes_the_full_losses_of_another(scheduler):
    log, begun = [], threading.Event()

    def full():
        for _ in range(200):
            log.append("full")
            begun.set()
            time.sleep(0.002)
            yield None

    slow = start(scheduler, "one", iter([(Rank.FULL, full())]))
    assert begun.wait(5)
    quick = start(scheduler, "two", numbers(Rank.QUICK, 5, log, "quick"))
    assert quick.over.wait(5)
    at = log.index("quick")
    assert log[at : at + 5] == ["quick"] * 5  # without a step of the other in between
    assert not slow.over.is_set()
    slow.cancel()
    assert slow.ends == [None]


def test_pages_that_want_the_same_kind_of_work_are_served_in_turn(scheduler):
    log, go = [], threading.Event()

    def first():
        go.wait(5)
        yield None

    gate = start(scheduler, "gate", iter([(Rank.SETTLE, first())]))
    watches = [
        start(scheduler, name, numbers(Rank.FULL, 3, log, name)) for name in ("one", "two", "three")
    ]
    go.set()
    assert gate.over.wait(5) and all(watch.over.wait(5) for watch in watches)
    assert log == ["one", "two", "three"] * 3


def test_a_page_with_long_steps_is_served_for_some_of_them_in_a_row(scheduler, monkeypatch):
    """Each change of the page would compose another recipe, which takes longer than a step."""
    monkeypatch.setattr("workbench.line.scheduler.LONG", 0.01)
    log, go = [], threading.Event()

    def first():
        go.wait(5)
        yield None

    def switching(name):
        for _ in range(8):
            composes = log[-1:] != [name]
            log.append(name)
            time.sleep(0.05 if composes else 0.002)
            yield None

    gate = start(scheduler, "gate", iter([(Rank.SETTLE, first())]))
    watches = [start(scheduler, n, iter([(Rank.QUICK, switching(n))])) for n in ("one", "two")]
    go.set()
    assert gate.over.wait(5) and all(watch.over.wait(5) for watch in watches)
    assert log == ["one"] * 8 + ["two"] * 8  # 8 steps last less than 4 times the first


def test_a_turn_ends_and_urgent_work_does_not_wait_for_its_end(scheduler, monkeypatch):
    monkeypatch.setattr("workbench.line.scheduler.LONG", 0.01)
    log, begun = [], threading.Event()

    def slow(name, count):
        for _ in range(count):
            log.append(name)
            begun.set()
            time.sleep(0.02)
            yield None

    watches = [start(scheduler, "one", iter([(Rank.QUICK, slow("one", 40))]))]
    assert begun.wait(5)
    watches.append(start(scheduler, "two", iter([(Rank.QUICK, slow("two", 2))])))
    watches.append(start(scheduler, "three", numbers(Rank.SETTLE, 1, log, "settle")))
    assert all(watch.over.wait(5) for watch in watches)
    assert log.index("settle") < log.index("two") < 40  # a turn is four times the first step
    assert log[-1] == "one"


def test_an_error_ends_its_own_task_only(scheduler):
    def broken():
        yield "first"
        raise ValueError("of this page")

    bad = start(scheduler, "bad", iter([(Rank.QUICK, broken())]))
    good = start(scheduler, "good", numbers(Rank.FULL, 3))
    assert bad.over.wait(5) and good.over.wait(5)
    assert bad.messages == ["first"] and str(bad.ends[0]) == "of this page"
    assert (good.messages, good.ends) == ([0, 1, 2], [None])


def test_the_cleanup_of_a_replaced_task_runs_in_the_thread_that_ran_it(scheduler):
    threads = []

    def task():
        try:
            yield Rank.FULL, iter([None] * 10_000)
        finally:
            threads.append(threading.current_thread().name)

    old = start(scheduler, "page", task())
    time.sleep(0.02)
    new = start(scheduler, "page", numbers(Rank.QUICK, 1))
    assert new.over.wait(5) and old.over.is_set()
    for _ in range(100):
        if threads:
            break
        time.sleep(0.01)
    assert threads == ["live line"]


def test_a_closed_scheduler_ends_what_waits_and_what_comes_later():
    scheduler, inside, go = Scheduler(), threading.Event(), threading.Event()

    def slow():
        inside.set()
        go.wait(5)
        yield "late"

    running = start(scheduler, "one", iter([(Rank.SETTLE, slow())]))
    assert inside.wait(5)
    waiting = start(scheduler, "two", numbers(Rank.FULL, 3))
    go.set()
    scheduler.close()
    after = start(scheduler, "three", numbers(Rank.FULL, 3))
    assert [watch.ends for watch in (running, waiting, after)] == [[None]] * 3
    assert after.messages == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.lists(st.tuples(st.sampled_from(list(Rank)), st.integers(0, 4)), max_size=3),
            st.sampled_from(["leave", "cancel"]),
        ),
        max_size=12,
    )
)
def test_any_interleaving_ends_each_task_once_and_carries_out_the_last_of_each_page(moves):
    scheduler = Scheduler()
    try:
        watches = {}
        every = []
        for page, phases, what in moves:
            watch = start(scheduler, page, iter([(rank, iter(range(n))) for rank, n in phases]))
            watch.wanted = [number for _, n in phases for number in range(n)]
            every.append(watch)
            watches[page] = watch
            if what == "cancel":
                watch.cancel()
                watch.wanted = None
        assert all(watch.over.wait(5) for watch in every)
        for watch in every:
            assert watch.ends == [None]
        for watch in watches.values():
            if watch.wanted is not None:
                assert watch.messages == watch.wanted
    finally:
        scheduler.close()


def test_derivatives_are_told_when_another_page_waits(scheduler):
    told, go, seen = threading.Event(), threading.Event(), []

    def slopes():
        assert not scheduler.is_awaited()
        told.set()
        go.wait(5)
        seen.append(scheduler.is_awaited())
        yield None

    def phases():
        yield Rank.SLOPES, slopes()

    waiting = start(scheduler, "one", phases())
    assert told.wait(5)
    urgent = start(scheduler, "two", numbers(Rank.QUICK, 2))
    go.set()
    assert waiting.over.wait(5) and urgent.over.wait(5)
    assert seen == [True] and waiting.ends == [None] and not scheduler.is_awaited()
