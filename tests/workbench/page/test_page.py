"""Laws of the page's wiring, of all its listeners."""

import pytest

from workbench.page.page import build
from workbench.session.session import Session

VALUES = {"input", "change", "blur", "submit", "then", "success"}
"""Events after which a field says something else, and what follows them."""


@pytest.fixture(scope="module")
def wired(tmp_path_factory):
    """Its listeners that the server answers."""
    page = build(Session([], tmp_path_factory.mktemp("page")))
    return [one for one in page.config["dependencies"] if one["backend_fn"]]


def test_no_change_of_a_value_is_dropped_while_the_answer_to_the_one_before_is_under_way(wired):
    # gradio's own choice is "once" wherever the first event of several is not `change`
    listening = [
        one for one in wired if one["inputs"] and VALUES & {event for _, event in one["targets"]}
    ]
    assert len(listening) > 30
    assert [one["targets"] for one in listening if one["trigger_mode"] == "once"] == []


def test_no_listener_sends_its_whole_event_again(wired):
    # gradio's page does that for "always_last", so two listeners of one event call each other for ever
    assert [one["targets"] for one in wired if one["trigger_mode"] == "always_last"] == []


def test_ticks_that_come_too_late_are_dropped(wired):
    ticks = [one for one in wired if "tick" in {event for _, event in one["targets"]}]
    assert len(ticks) >= 5
    assert {one["trigger_mode"] for one in ticks} == {"once"}
