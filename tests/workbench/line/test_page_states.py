"""States of pages: they outlive the server, and only so many are kept."""

import pytest

from workbench.line import page_states
from workbench.line.page_states import PageStates

STANDING = {"models": "m", "method": "ties", "parameters": {}, "omegas": {"cot": 0.127}}


@pytest.fixture
def states(tmp_path):
    made = PageStates(tmp_path / "pages.sqlite")
    yield made
    made.close()


def test_a_state_comes_back_after_a_restart(tmp_path):
    first = PageStates(tmp_path / "pages.sqlite")
    first.keep("page-1234", {"past": [1, 2], **STANDING}, "abc", STANDING)
    first.close()
    second = PageStates(tmp_path / "pages.sqlite")
    assert second.page("page-1234") == {"past": [1, 2], **STANDING}
    assert second.recipe("abc") == STANDING
    assert second.page("page-5678") is None and second.recipe("xyz") is None
    second.close()


def test_the_last_state_of_a_page_counts_and_every_recipe_stays(states):
    for number in range(3):
        states.keep("page-1234", {"number": number}, str(number), STANDING)
    assert states.page("page-1234") == {"number": 2}
    assert all(states.recipe(str(number)) for number in range(3))


def test_the_pages_that_were_used_longest_ago_are_dropped(states, monkeypatch):
    monkeypatch.setattr(page_states, "MOST_PAGES", 2)
    monkeypatch.setattr(page_states, "MOST_RECIPES", 3)
    for number in range(5):
        states.keep(f"page-{number}", {"number": number}, f"recipe-{number}", STANDING)
    assert [states.page(f"page-{number}") is not None for number in range(5)] == [False] * 3 + [
        True
    ] * 2
    assert [states.recipe(f"recipe-{number}") is not None for number in range(5)] == [False] * 2 + [
        True
    ] * 3


def test_a_damaged_file_is_set_aside_and_the_page_begins_anew(tmp_path):
    (tmp_path / "pages.sqlite").write_bytes(b"no database at all" * 100)
    said = []
    states = PageStates(tmp_path / "pages.sqlite", said.append)
    assert states.page("page-1234") is None
    assert "list of page states" in said[0]
    states.close()
