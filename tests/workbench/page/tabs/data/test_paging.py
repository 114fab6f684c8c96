"""Pages of twenty rows."""

import pytest

from workbench.page.tabs.data.paging import ROWS, page_of


@pytest.mark.parametrize(
    ("number", "shown", "text"),
    [(0, 20, "1–20 of 45"), (2, 5, "41–45 of 45"), (9, 5, "41–45 of 45"), (-1, 20, "1–20 of 45")],
)
def test_a_page_has_twenty_rows_and_stays_within_the_list(number, shown, text):
    page = page_of(range(45), number)
    assert (len(page.rows), page.text, page.pages) == (shown, text, 3)
    assert page.rows[0] == page.first == page.number * ROWS


def test_no_rows_are_one_empty_page():
    page = page_of([], 3)
    assert (page.rows, page.number, page.pages, page.text) == ([], 0, 1, "none")


def test_all_pages_together_are_the_list():
    pages = [page_of(range(61), number) for number in range(page_of(range(61), 0).pages)]
    assert [row for page in pages for row in page.rows] == list(range(61))
