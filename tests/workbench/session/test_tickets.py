"""Which request of a page is the newest."""

from workbench.session.tickets import Tickets


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
