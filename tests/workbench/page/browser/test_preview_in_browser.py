"""A dragged adapter is followed while the mouse is down, and the page lands on what is exact."""

import time
from collections import Counter

import pytest

pytestmark = pytest.mark.browser

WATCH = """() => {
    window.stages = [];
    new MutationObserver(() => {
        const chart = document.querySelector('section.bullets');
        if (!chart) return;
        const now = [chart.dataset.stage, chart.dataset.digest, chart.querySelector('.sizes').textContent,
            document.querySelector('#header .digest').textContent];
        if (JSON.stringify(window.stages.at(-1)) !== JSON.stringify(now)) window.stages.push(now);
    }).observe(document.body, { childList: true, subtree: true, attributes: true });
}"""


def sliders(page):
    return page.locator("#sliders .omega input[type=range]")


def held(page, place, seconds, until=lambda: False):
    """Move a slider to and fro with the mouse down, never at rest; the mouse stays down."""
    box = sliders(page).nth(place).bounding_box()
    y, left = box["y"] + box["height"] / 2, box["x"] + 8
    value = float(sliders(page).nth(place).input_value())
    page.mouse.move(left + (box["width"] - 16) * (value + 1) / 3, y)
    page.mouse.down()
    end, step = time.monotonic() + seconds, 0
    while time.monotonic() < end and not until():
        step += 1
        share = 0.35 + 0.01 * (step % 40)
        page.mouse.move(left + (box["width"] - 16) * share, y)
        page.wait_for_timeout(40)


def previews(page):
    """The stages of the chart since it was watched."""
    return [row for row in page.evaluate("window.stages") if row[0] == "preview"]


def shown_together(seen):
    """The most previews that were shown while the server stood at one and the same composition."""
    return max(Counter(omegas for *_, omegas in seen).values(), default=0)


@pytest.mark.slow
def test_the_chart_follows_an_adapter_that_is_dragged_and_lands_exactly(adapted, open_page, steps):
    page = open_page(at=adapted)
    page.evaluate(WATCH)
    before = steps.on_server(page)
    held(page, 2, 60, until=lambda: shown_together(previews(page)) > 2)
    page.mouse.up()
    wanted = steps.on_page(page)
    steps.settled(page, wanted)
    steps.exact(page)
    assert steps.on_server(page) == wanted != before
    seen = previews(page)
    assert len({digest for _, digest, *_ in seen}) > 2, page.evaluate("window.stages")
    assert all("exact when you stop" in words for _, _, words, _ in seen)
    # several moves were shown while the server stood where it stood: nothing was settled between them
    assert shown_together(seen) > 2
    assert "preview" not in page.locator("section.bullets").get_attribute("class")


@pytest.mark.slow
def test_a_full_checkpoint_that_is_dragged_is_shown_when_it_rests(adapted, open_page, steps):
    page = open_page(at=adapted)
    assert page.locator(".omega.adapter").count() == 1 and page.locator(".omega").nth(2).evaluate(
        "row => row.classList.contains('adapter')"
    )
    page.evaluate(WATCH)
    held(page, 0, 1.5)
    page.mouse.up()
    wanted = steps.on_page(page)
    steps.settled(page, wanted)
    assert previews(page) == []


@pytest.mark.slow
def test_after_many_short_drags_the_last_lands(adapted, open_page, steps):
    page = open_page(at=adapted)
    for _ in range(6):
        held(page, 2, 0.3)
        page.mouse.up()
        page.wait_for_timeout(170)  # about when the settling begins
    wanted = steps.on_page(page)
    steps.settled(page, wanted)
    time.sleep(1.5)  # whatever is late would have come
    steps.settled(page, wanted)
    steps.exact(page)
    assert steps.on_server(page) == wanted
