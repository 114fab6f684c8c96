"""Which request of a page is the newest, and who gives way to whom."""

import threading
import time

import pytest

from workbench.session.tickets import CountedLock, Tickets, Urgent


def test_a_newer_request_of_the_same_page_makes_the_older_stale():
    tickets = Tickets()
    first, other = tickets.ticket("page"), tickets.ticket("another page")
    assert not first() and not other()
    second = tickets.ticket("page")
    assert first() and not second() and not other()


def test_a_page_that_is_gone_leaves_only_stale_requests():
    tickets = Tickets()
    mine, beside, other = (tickets.ticket(name) for name in ("page", "page:rounding", "page2"))
    tickets.forget("page")
    assert mine() and beside() and not other()
    assert not tickets.ticket("page")()  # the name may be used again


def test_a_ticket_of_a_forgotten_page_stays_stale_when_the_page_comes_back():
    tickets = Tickets()
    old = [tickets.ticket("page") for _ in range(3)]
    tickets.forget("page")
    again = [tickets.ticket("page") for _ in range(3)]
    assert [stale() for stale in old] == [True, True, True]
    assert [stale() for stale in again] == [True, True, False]


def test_work_that_can_wait_waits_until_nothing_is_urgent():
    urgent, done = Urgent(), threading.Event()

    def later():
        urgent.wait(lambda: False, most=30)
        done.set()

    assert not urgent
    with urgent.held():
        with urgent.held():
            thread = threading.Thread(target=later)
            thread.start()
        assert urgent and not done.wait(0.2)
    assert done.wait(5) and not urgent
    thread.join()


def test_nobody_waits_for_ever():
    urgent = Urgent()
    with urgent.held():
        begin = time.monotonic()
        urgent.wait(lambda: True, most=30)
        urgent.wait(lambda: False, most=0.2)
        assert time.monotonic() - begin < 5
    urgent.wait(lambda: False, most=30)
    with pytest.raises(ValueError), urgent.held():
        raise ValueError
    assert not urgent


def test_a_lock_tells_whether_somebody_waits_for_it():
    lock, entered = CountedLock(), threading.Event()

    def enter():
        with lock:
            entered.set()

    with lock:
        with lock:
            assert not lock.wanted
        thread = threading.Thread(target=enter)
        thread.start()
        end = time.monotonic() + 5
        while not lock.wanted and time.monotonic() < end:
            time.sleep(0.01)
        assert lock.wanted and not entered.is_set()
    assert entered.wait(5)
    thread.join()
    assert not lock.wanted
